"""OpenAI's Images API, below /v1/."""

from typing import Any, ClassVar
from uuid import UUID

from django.urls import re_path
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from generation.api.model_views import ModelDetailView, ModelListView
from generation.choices import Kind
from generation.compat.dialect import DialectView, NothingHereView, job_header, result_wait
from generation.compat.openai.answers import _images_body
from generation.compat.openai.requests import FIELDS, ImagesRequest, edit_read, generation_read
from generation.compat.openai.stream import ImageStream
from generation.compat.shapes import openai_shape
from generation.models import Generation
from generation.selectors import generation_get, generation_result
from imagegen_project.common.http import caller
from imagegen_project.common.ids import UUID_REGEX
from imagegen_project.common.parsers import BoundedJSONParser
from imagegen_project.common.routers import route
from imagegen_project.common.waiting import Stream, Wait, has_waited


class OpenAIView(DialectView):
    """A view in OpenAI's dialect."""

    shape = staticmethod(openai_shape)
    prompt_required = True
    ends_with_request = True
    names = {native: name for name, native in FIELDS.items()} | {
        "width": "size",
        "height": "size",
        "image": "image",
        "mask_image": "mask",
        "loras": "lora",
    }


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
                partial_images = wanted.partial_images
                return Stream(
                    ImageStream(generation, user=user, name=self.stream_name, partial_images=partial_images)
                )
            query = f"response_format={wanted.response_format}"
            return result_wait(request, generation, f"/v1/images/results/{generation.id}?{query}")

        return self.answer(
            request, wanted.data, kinds=self.kinds, warnings=wanted.warnings, afterwards=afterwards
        )

    def read(self, body: Any) -> ImagesRequest:
        """The body in the native fields."""
        return generation_read(body)


class EditsView(ImagesView):
    """`POST images/edits`: from a picture, and with a mask only what is transparent in it."""

    parser_classes = (BoundedJSONParser, MultiPartParser)
    kinds = (Kind.IMG2IMG, Kind.INPAINT)
    stream_name = "image_edit"

    def read(self, body: Any) -> ImagesRequest:
        """The body in the native fields."""
        return edit_read(body)


class ImagesResultView(OpenAIView):
    """`GET images/results/<job id>`: what the two above answer, once the job has ended."""

    def get(self, request: Request, generation_id: UUID) -> Response:
        """The pictures as base64, or with `?response_format=url` as addresses that open without a token."""
        generation = generation_get(user=request.user, generation_id=generation_id)
        generation = generation_result(generation, waited=has_waited(request))
        by_url = request.query_params.get("response_format") == "url"
        return Response(_images_body(request, generation, by_url=by_url), headers=job_header(generation))


class OpenAIModelListView(OpenAIView, ModelListView):
    """`GET models`: the native list, which has OpenAI's fields."""


class OpenAIModelView(OpenAIView, ModelDetailView):
    """`GET models/<id>`."""


urlpatterns = [
    route("images/generations", ImagesView.as_view(), "images-generations"),
    route("images/edits", EditsView.as_view(), "images-edits"),
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
