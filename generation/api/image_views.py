"""The bytes of pictures: finished ones, small or whole, and those that were given."""

from typing import Any, NoReturn
from uuid import UUID

from csp.constants import UNSAFE_INLINE
from csp.decorators import csp_update
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.decorators import method_decorator
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view
from rest_framework import status
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import ValidationError
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.settings import api_settings
from rest_framework.views import APIView

from generation.errors import AddressExpiredError
from generation.models import GeneratedImage
from generation.pictures.files import THUMBNAIL_WIDTHS, image_read, input_read, picture_disposition
from generation.pictures.notes import notes_removed
from generation.pictures.thumbnails import THUMBNAIL_TYPE, thumbnail_of
from generation.selectors import generation_get, image_get, image_get_signed
from imagegen_project.common.http import file_response
from imagegen_project.common.signed_addresses import address_claims, address_seconds_left

YEAR_S = 31_536_000
# Opened by itself, a picture is placed by the browser's own viewer, which does that by style attributes.
styled_by_the_viewer = method_decorator(csp_update({"style-src-attr": [UNSAFE_INLINE]}))


class PictureRenderer(BaseRenderer):
    """Says that a route serves pictures, so that an `Accept` of any kind of picture is met."""

    media_type = "image/*"
    format = "png"
    charset = None
    render_style = "binary"

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> Any:
        """Any other body, such as an error's, as JSON: a picture itself never passes here."""
        response = (renderer_context or {}).get("response")
        if response is not None and response.headers["Content-Type"].startswith("image/"):
            response.headers["Content-Type"] = JSONRenderer.media_type
        return JSONRenderer().render(data)


PICTURE_RENDERERS: Any = (*api_settings.DEFAULT_RENDERER_CLASSES, PictureRenderer)


class ImageView(APIView):
    """A finished picture's bytes, for its owner, and for whoever has its signed address while that is good."""

    renderer_classes = PICTURE_RENDERERS
    # For how long the address itself is good, in seconds; 0 where it is no signed one.
    seconds_left = 0

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Looks at the address first."""
        super().setup(request, *args, **kwargs)
        self.seconds_left = address_seconds_left(request) if address_claims(request) else 0

    def get_authenticators(self) -> list[BaseAuthentication]:
        """None for a signed address: wrong credentials that come with it do no harm."""
        return [] if self.seconds_left else super().get_authenticators()

    def get_permissions(self) -> list[Any]:
        """None for a signed address."""
        return [] if self.seconds_left else list(super().get_permissions())

    def permission_denied(
        self, request: Request, message: str | None = None, code: str | None = None
    ) -> NoReturn:
        """Raises AddressExpiredError where an address says that it is signed, else what the permission means."""
        if address_claims(request):
            raise AddressExpiredError("Ask for the generation again: its answer has a new address.")
        super().permission_denied(request, message, code)

    @extend_schema(
        operation_id="generations_image",
        parameters=[
            OpenApiParameter(
                "width", int, enum=THUMBNAIL_WIDTHS, description="A WebP of that width in the file's place."
            )
        ],
        responses={
            (200, "image/png"): OpenApiResponse(OpenApiTypes.BINARY, "The file."),
            (200, THUMBNAIL_TYPE): OpenApiResponse(OpenApiTypes.BINARY, "The thumbnail."),
            304: None,
        },
    )
    @styled_by_the_viewer
    def get(self, request: Request, generation_id: UUID, index: str) -> HttpResponse:
        """The file as it was stored, its ETag being its SHA-256; or with `width` a thumbnail, made once and kept."""
        width = width_wanted(request)
        if self.seconds_left:
            image = image_get_signed(generation_id=generation_id, index=int(index))
        else:
            image = image_get(user=request.user, generation_id=generation_id, index=int(index))
        return picture_response(request, image, width=width, max_age_s=self.seconds_left or YEAR_S)


def width_wanted(request: Request) -> int | None:
    """The width of the thumbnail that is asked for. Raises ValidationError."""
    given = request.query_params.getlist("width")
    if not given:
        return None
    known = {str(width): width for width in THUMBNAIL_WIDTHS}
    if len(given) > 1 or given[0] not in known:
        raise ValidationError({"width": f"Must be given once, as one of {', '.join(known)}."})
    return known[given[0]]


def picture_response(
    request: Request,
    image: GeneratedImage,
    *,
    width: int | None = None,
    max_age_s: int = YEAR_S,
    with_notes: bool = True,
) -> HttpResponse:
    """A finished picture's bytes, or those of its thumbnail; the `Range` of them that is asked for.

    Without its notes neither file nor name tell what was asked for.
    """
    variant = f"-{width}" if width else "" if with_notes else "-bare"
    etag = f'"{image.sha256}{variant}"'
    content_type = THUMBNAIL_TYPE if width else str(image.content_type)
    headers = {
        "ETag": etag,
        "Cache-Control": f"private, max-age={max_age_s}, immutable",
        # What a page that shows it loads from elsewhere does not learn the address.
        "Referrer-Policy": "no-referrer",
        "Content-Disposition": picture_disposition(image, content_type, by_prompt=with_notes),
    }
    if request.headers.get("If-None-Match") == etag:
        return HttpResponse(status=status.HTTP_304_NOT_MODIFIED, headers=headers)
    if width:
        thumbnail = thumbnail_of(image, width)
        return file_response(request, thumbnail, content_type=content_type, headers=headers)
    if not with_notes:
        bare = notes_removed(image_read(image))
        return file_response(request, bare, content_type=content_type, headers=headers)
    if request.query_params.get("redirect") == "1" and (address := image.storage_url()):
        kept_to_itself = {"Cache-Control": "private, no-store", "Referrer-Policy": "no-referrer"}
        return HttpResponseRedirect(address, headers=kept_to_itself)
    return file_response(request, image_read(image), content_type=content_type, headers=headers)


class InputView(APIView):
    """An input picture's bytes."""

    renderer_classes = ImageView.renderer_classes
    part: str

    @extend_schema(responses={(200, "image/png"): OpenApiResponse(OpenApiTypes.BINARY, "The file.")})
    @styled_by_the_viewer
    def get(self, request: Request, generation_id: UUID, index: str = "") -> HttpResponse:
        """The picture as the pipeline takes it: upright, fitted to width x height (to be edited: in its own size)."""
        generation = generation_get(user=request.user, generation_id=generation_id)
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}
        part = f"{self.part}/{int(index)}" if index else self.part
        data = input_read(generation.input_names.get(part, ""))
        return HttpResponse(data, content_type="image/png", headers=headers)


@extend_schema_view(get=extend_schema(operation_id="generations_input"))
class InputImageView(InputView):
    """The input picture of img2img and inpaint."""

    part = "input"


@extend_schema_view(get=extend_schema(operation_id="generations_mask"))
class MaskView(InputView):
    """The mask of inpaint."""

    part = "mask"


@extend_schema_view(get=extend_schema(operation_id="generations_inputs"))
class EditedImageView(InputView):
    """One of the pictures of an edit, from 0."""

    part = "inputs"
