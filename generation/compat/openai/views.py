"""OpenAI's Images API, below /v1/."""

from typing import Any, ClassVar
from uuid import UUID

from django.conf import settings
from django.urls import re_path
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from generation.api.model_views import ModelDetailView, ModelListView
from generation.choices import QUALITY_STEPS, ErrorCode, Kind
from generation.compat.dialect import DialectView, NothingHereView, job_header, result_wait
from generation.compat.openai.answers import images_body
from generation.compat.openai.models import alias_resolve, aliases_listed
from generation.compat.openai.requests import (
    FIELDS,
    QUALITIES,
    URL,
    ImagesRequest,
    edit_read,
    generation_read,
    variation_read,
)
from generation.compat.openai.stream import ImageStream
from generation.compat.shapes import openai_shape
from generation.models import Generation
from generation.selectors import generation_get, generation_result
from imagegen_project.common.http import caller
from imagegen_project.common.ids import UUID_REGEX
from imagegen_project.common.parsers import BoundedJSONParser
from imagegen_project.common.routers import route
from imagegen_project.common.waiting import Stream, Wait, has_waited
from models_registry.errors import ModelNotFoundError


class OpenAIView(DialectView):
    """A view in OpenAI's dialect."""

    shape = staticmethod(openai_shape)
    prompt_required = True
    ends_with_request = True
    names = {native: name for name, native in FIELDS.items()} | {
        "width": "size",
        "height": "size",
        "image": "image",
        "images": "image",
        "mask_image": "mask",
        "loras": "lora",
    }

    def _status(self, body: dict[str, Any]) -> int:
        return 400 if body["code"] == ErrorCode.UNSAFE else super()._status(body)


class ImagesView(OpenAIView):
    """`POST images/generations`."""

    kinds: ClassVar[tuple[Kind, ...]] = (Kind.TXT2IMG,)
    stream_name: ClassVar[str] = "image_generation"

    def post(self, request: Request) -> Response:
        """Draws and answers pictures; with `stream`, as server-sent events."""
        wanted = self.read(request.data)
        user = caller(request)

        def afterwards(generation: Generation) -> Wait | Stream:
            if wanted.stream:
                return Stream(
                    ImageStream(
                        generation,
                        user=user,
                        name=self.stream_name,
                        partial_images=wanted.partial_images,
                        quality=wanted.quality,
                    )
                )
            query = f"response_format={wanted.response_format}&quality={wanted.quality}"
            return result_wait(request, generation, f"/v1/images/results/{generation.id}?{query}")

        return self.answer(
            request,
            wanted.data,
            kinds=self.kinds,
            warnings=wanted.warnings,
            errors=wanted.errors,
            afterwards=afterwards,
        )

    def read(self, body: Any) -> ImagesRequest:
        """The body in the native fields."""
        return generation_read(body)


class EditsView(ImagesView):
    """`POST images/edits`: from pictures, and with a mask only what is transparent in it."""

    parser_classes = (BoundedJSONParser, MultiPartParser)
    kinds: ClassVar[tuple[Kind, ...]] = (Kind.IMG2IMG, Kind.INPAINT, Kind.EDIT)
    stream_name = "image_edit"

    def read(self, body: Any) -> ImagesRequest:
        """The body in the native fields."""
        return edit_read(body)


class VariationsView(EditsView):
    """`POST images/variations`: from a picture alone."""

    kinds: ClassVar[tuple[Kind, ...]] = (Kind.IMG2IMG,)
    prompt_required = False

    def read(self, body: Any) -> ImagesRequest:
        """The body in the native fields."""
        return variation_read(body)


class ImagesResultView(OpenAIView):
    """`GET images/results/<job id>`: what the two above answer, once the job has ended."""

    def get(self, request: Request, generation_id: UUID) -> Response:
        """The pictures as base64, or with `?response_format=url` as addresses that open without a token."""
        generation = generation_get(user=request.user, generation_id=generation_id)
        generation = generation_result(generation, waited=has_waited(request))
        by_url = request.query_params.get("response_format") == URL
        quality = request.query_params.get("quality")
        quality = quality if quality in QUALITY_STEPS else QUALITIES["auto"]
        return Response(
            images_body(generation, by_url=by_url, quality=quality), headers=job_header(generation)
        )


class OpenAIModelListView(OpenAIView, ModelListView):
    """`GET models`: the native list, which has OpenAI's fields."""

    def get(self, request: Request) -> Response:
        """The models; with `?aliases=true`, or LIST_MODEL_ALIASES, the names that stand for them too."""
        response = super().get(request)
        asked = request.query_params.get("aliases")
        if asked == "true" or (asked is None and settings.LIST_MODEL_ALIASES):
            response.data["data"] = [*response.data["data"], *aliases_listed()]
        return response


class OpenAIModelView(OpenAIView, ModelDetailView):
    """`GET models/<id>`."""

    def get(self, request: Request, name: str) -> Response:
        """The model; by a name that stands for it, under that name."""
        try:
            return super().get(request, name)
        except ModelNotFoundError:
            checkpoint = alias_resolve(name)
            if checkpoint is None:
                raise
        response = super().get(request, checkpoint.id)
        response.data = {**response.data, "id": name, "alias_of": checkpoint.id}
        return response


urlpatterns = [
    route("images/generations", ImagesView.as_view(), "images-generations"),
    route("images/edits", EditsView.as_view(), "images-edits"),
    route("images/variations", VariationsView.as_view(), "images-variations"),
    route(rf"images/results/(?P<generation_id>{UUID_REGEX})", ImagesResultView.as_view(), "images-results"),
    route("models", OpenAIModelListView.as_view(), "models"),
    # `load` and `unload` are the native routes'.
    route(
        r"models/(?!load/?$|unload/?$|orders/)(?P<name>[A-Za-z0-9._-]{1,100}(?:/[A-Za-z0-9._-]{1,100})?)",
        OpenAIModelView.as_view(),
        "model",
    ),
    re_path(r"^images/", NothingHereView.as_view(shape=openai_shape)),
]
