"""Hugging Face Inference's contract, at /hf/<model>."""

from collections.abc import Mapping
from typing import IO, Any
from uuid import UUID

from django.http import HttpResponse
from django.urls import re_path
from rest_framework.parsers import BaseParser
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from generation.choices import Kind
from generation.compat.dialect import DialectView, NothingHereView, job_header, result_wait
from generation.compat.huggingface.requests import _FIELDS, _accepted_format, _picture, _read
from generation.compat.shapes import huggingface_shape
from generation.models import Generation, Worker
from generation.pictures.files import image_read
from generation.pictures.reading import MAX_PICTURE_BYTES
from generation.selectors import generation_get, generation_result, image_get
from imagegen_project.common.ids import UUID_REGEX
from imagegen_project.common.parsers import BoundedJSONParser
from imagegen_project.common.routers import route
from imagegen_project.common.waiting import Wait, has_waited
from models_registry.choices import DiskState
from models_registry.selectors import checkpoint_get

_MODEL = r"(?P<name>[A-Za-z0-9._-]{1,100}(?:/[A-Za-z0-9._-]{1,100})?)"


class BytesParser(BaseParser):
    """Whatever is not JSON is a picture's bytes."""

    media_type = "*/*"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        """The body, or as much of it as shows that it is too large."""
        return stream.read(MAX_PICTURE_BYTES + 1)


class HuggingFaceView(DialectView):
    """A view in this dialect."""

    shape = staticmethod(huggingface_shape)
    ends_with_request = True
    names = {"image": "inputs", "prompt": "inputs"} | {
        name: f"parameters.{name}" for name in (*_FIELDS, "scheduler")
    }


class InferenceView(HuggingFaceView):
    """`POST /hf/<model>`: text to image, or image to image where `inputs` is a picture."""

    parser_classes = (BoundedJSONParser, BytesParser)

    def post(self, request: Request, name: str) -> Response:
        """Draws one picture and answers its bytes."""
        output_format = _accepted_format(request.headers.get("Accept", "*/*"))
        body: Any = request.data
        data, params = _picture(body) if isinstance(body, bytes) else _read(body)
        data |= {"model": name, "output_format": output_format}
        kinds = (Kind.IMG2IMG, Kind.INPAINT, Kind.EDIT) if "image" in data else (Kind.TXT2IMG,)

        def wait(generation: Generation) -> Wait:
            return result_wait(request, generation, f"/hf/results/{generation.id}")

        return self.answer(
            request, data, kinds=kinds, warnings=params.warnings, errors=params.errors, afterwards=wait
        )


class ResultView(HuggingFaceView):
    """`GET /hf/results/<job id>`: what the above answers, once the job has ended."""

    def get(self, request: Request, generation_id: UUID) -> HttpResponse:
        """The picture's bytes."""
        generation = generation_get(user=request.user, generation_id=generation_id)
        generation_result(generation, waited=has_waited(request))
        image = image_get(user=request.user, generation_id=generation_id, index=0)
        return HttpResponse(
            image_read(image), content_type=image.content_type, headers=job_header(generation)
        )


class HealthView(HuggingFaceView):
    """`GET /hf/<model>/health`."""

    permission_classes = (AllowAny,)

    def get(self, request: Request, name: str) -> Response:
        """200 when a request for this model would be drawn: a worker lives, and its files are there or on their way."""
        checkpoint = checkpoint_get(name=name)
        if checkpoint.state == DiskState.BROKEN:
            return _unhealthy(checkpoint.error_detail)
        if not Worker.objects.live().exists():
            return _unhealthy("No GPU worker is alive.")
        return Response({"status": "ok", "state": checkpoint.state})


def _unhealthy(reason: str) -> Response:
    return Response({"error": reason, "error_type": "unhealthy"}, status=503)


class InfoView(HuggingFaceView):
    """`GET /hf/<model>/info`."""

    permission_classes = (AllowAny,)

    def get(self, request: Request, name: str) -> Response:
        """Which model this is."""
        checkpoint = checkpoint_get(name=name)
        return Response(
            {
                "model_id": checkpoint.repository,
                "model_sha": checkpoint.revision or None,
                "model_dtype": checkpoint.dtype,
                "model_pipeline_tag": "text-to-image",
                "id": checkpoint.id,
                "family": checkpoint.family,
                "state": checkpoint.state,
            }
        )


urlpatterns = [
    route(rf"results/(?P<generation_id>{UUID_REGEX})", ResultView.as_view(), "results"),
    route(rf"{_MODEL}/health", HealthView.as_view(), "health"),
    route(rf"{_MODEL}/info", InfoView.as_view(), "info"),
    route(_MODEL, InferenceView.as_view(), "inference"),
    re_path(r"", NothingHereView.as_view(shape=huggingface_shape)),
]
