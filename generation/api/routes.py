"""The job's routes."""

from generation.api.account_views import MeView, UsageView
from generation.api.capabilities import CapabilitiesView
from generation.api.image_views import EditedImageView, ImageView, InputImageView, MaskView
from generation.api.lora_views import LoraLoadView, LoraUnloadView
from generation.api.model_views import (
    ModelDetailView,
    ModelListView,
    ModelLoadView,
    ModelUnloadView,
    OrderView,
)
from generation.api.png_info_views import PngInfoView
from generation.api.share_views import SharesView, ShareView
from generation.api.views import GenerationViewSet, Img2ImgView, Txt2ImgView
from generation.api.webhook_views import WebhookSecretView
from imagegen_project.common.ids import UUID_REGEX
from imagegen_project.common.routers import OptionalSlashRouter, route

router = OptionalSlashRouter()
router.register("generations", GenerationViewSet, basename="generation")

urlpatterns = [
    route("generate/txt2img", Txt2ImgView.as_view(), "generate-txt2img"),
    route("txt2img", Txt2ImgView.as_view(), "txt2img"),
    route("generate/img2img", Img2ImgView.as_view(), "generate-img2img"),
    route("img2img", Img2ImgView.as_view(), "img2img"),
    route("capabilities", CapabilitiesView.as_view(), "capabilities"),
    route(
        rf"generations/(?P<generation_id>{UUID_REGEX})/images/(?P<index>[0-9]{{1,3}})",
        ImageView.as_view(),
        "generation-image",
    ),
    route(
        rf"generations/(?P<generation_id>{UUID_REGEX})/input", InputImageView.as_view(), "generation-input"
    ),
    route(rf"generations/(?P<generation_id>{UUID_REGEX})/mask", MaskView.as_view(), "generation-mask"),
    route(
        rf"generations/(?P<generation_id>{UUID_REGEX})/inputs/(?P<index>[0-9]{{1,2}})",
        EditedImageView.as_view(),
        "generation-edited",
    ),
    route(rf"generations/(?P<generation_id>{UUID_REGEX})/shares", SharesView.as_view(), "generation-shares"),
    route(
        rf"generations/(?P<generation_id>{UUID_REGEX})/shares/(?P<share_id>{UUID_REGEX})",
        ShareView.as_view(),
        "generation-share",
    ),
    route("models/load", ModelLoadView.as_view(), "models-load"),
    route("models/unload", ModelUnloadView.as_view(), "models-unload"),
    route(rf"models/orders/(?P<order_id>{UUID_REGEX})", OrderView.as_view(), "models-order"),
    route("loras/load", LoraLoadView.as_view(), "loras-load"),
    route("loras/unload", LoraUnloadView.as_view(), "loras-unload"),
    route("models", ModelListView.as_view(), "models"),
    # A repository's name holds a slash.
    route(
        r"models/(?P<name>[A-Za-z0-9._-]{1,100}(?:/[A-Za-z0-9._-]{1,100})?)",
        ModelDetailView.as_view(),
        "model",
    ),
    route("png-info", PngInfoView.as_view(), "png-info"),
    route("me", MeView.as_view(), "me"),
    route("usage", UsageView.as_view(), "usage"),
    route("webhook-secret", WebhookSecretView.as_view(), "webhook-secret"),
    *router.urls,
]
