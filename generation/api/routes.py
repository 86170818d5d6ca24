"""The job's routes."""

from generation.api.views import GenerationViewSet, ImageView, ModelLoadView, ModelUnloadView, Txt2ImgView
from imagegen_project.common.routers import UUID_REGEX, OptionalSlashRouter, route

router = OptionalSlashRouter()
router.register("generations", GenerationViewSet, basename="generation")

urlpatterns = [
    route("generate/txt2img", Txt2ImgView.as_view(), "generate-txt2img"),
    route("txt2img", Txt2ImgView.as_view(), "txt2img"),
    route(
        rf"generations/(?P<generation_id>{UUID_REGEX})/images/(?P<index>[0-9]{{1,3}})",
        ImageView.as_view(),
        "generation-image",
    ),
    route("models/load", ModelLoadView.as_view(), "models-load"),
    route("models/unload", ModelUnloadView.as_view(), "models-unload"),
    *router.urls,
]
