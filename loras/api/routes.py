"""The routes of LoRA."""

from imagegen_project.common.routers import OptionalSlashRouter, route
from loras.api.views import LoraUploadView, LoraViewSet

router = OptionalSlashRouter()
router.register("loras", LoraViewSet, basename="lora")

urlpatterns = [
    route("loras/list", LoraViewSet.as_view({"get": "list"}), "lora-list-alias"),
    route("loras/upload", LoraUploadView.as_view(), "loras-upload"),
    *router.urls,
]
