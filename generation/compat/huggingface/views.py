"""Hugging Face Inference's contract, at /hf/<model>."""

import re
from collections.abc import Mapping
from typing import IO, Any, Final
from uuid import UUID

from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpResponse
from django.urls import re_path
from rest_framework.exceptions import NotAcceptable
from rest_framework.parsers import BaseParser
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from generation.choices import Kind, OutputFormat, Scheduler
from generation.compat.dialect import DialectView, NothingHereView, Params, job_header, refuse, result_wait
from generation.compat.shapes import huggingface_shape
from generation.models import Generation
from generation.pictures.reading import MAX_PICTURE_BYTES
from generation.results import generation_result
from generation.selectors import generation_get, image_get, live_workers
from imagegen_project.common.parsers import BoundedJSONParser
from imagegen_project.common.routers import UUID_REGEX, route
from imagegen_project.common.waiting import WaitOrder, has_waited
from models_registry.choices import DiskState
from models_registry.selectors import checkpoint_get

_FORMATS: Final = {
    "image/png": OutputFormat.PNG,
    "image/jpeg": OutputFormat.JPEG,
    "image/jpg": OutputFormat.JPEG,
    "image/webp": OutputFormat.WEBP,
    "image/*": OutputFormat.PNG,
    "*/*": OutputFormat.PNG,
}
_FIELDS: Final[Mapping[str, str]] = {
    name: name
    for name in (
        "negative_prompt", "num_inference_steps", "guidance_scale", "width", "height", "seed", "strength",
        "clip_skip", "loras", "mask_image", "timeout_s", "reproducible", "strict",
    )
}  # fmt: skip
# diffusers' classes, which this contract calls schedulers by.
_SCHEDULERS: Final = {
    "DDIMScheduler": Scheduler.DDIM,
    "DDPMScheduler": Scheduler.DDPM,
    "EulerDiscreteScheduler": Scheduler.EULER,
    "EulerAncestralDiscreteScheduler": Scheduler.EULER_A,
    "DPMSolverMultistepScheduler": Scheduler.DPMPP_2M,
    "UniPCMultistepScheduler": Scheduler.UNIPC,
    "LCMScheduler": Scheduler.LCM,
}
# How base64 of a PNG, JPEG or WebP begins; no prompt does.
_PICTURE = re.compile(r"data:image/|iVBORw0KGgo|/9j/|UklGR")
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
        kinds = (Kind.IMG2IMG, Kind.INPAINT) if "image" in data else (Kind.TXT2IMG,)

        def order(generation: Generation) -> WaitOrder:
            return result_wait(request, generation, f"/hf/results/{generation.id}")

        return self.answer(request, data, kinds=kinds, warnings=params.warnings, order=order)


def _accepted_format(accept: str) -> OutputFormat:
    """The first picture type that the client takes. Raises NotAcceptable."""
    for part in accept.split(","):
        media_type = part.partition(";")[0].strip().lower()
        if found := _FORMATS.get(media_type):
            return found
    if accept.strip().lower() in ("", "application/json"):
        return OutputFormat.PNG  # what clients send who think of their request
    raise NotAcceptable(f"Pictures come as {', '.join(sorted(set(_FORMATS) - {'*/*', 'image/*'}))}.")


def _picture(body: bytes) -> tuple[dict[str, Any], Params]:
    return {"image": SimpleUploadedFile("inputs", body)}, Params({})


def _read(body: Any) -> tuple[dict[str, Any], Params]:
    """The native fields. Raises ValidationError."""
    outer = Params(body)
    inputs = outer.take("inputs")
    params = Params(outer.take("parameters", {}), below="parameters.")
    _options(outer)
    outer.end()
    data = params.rename(_FIELDS) | _target_size(params) | _scheduler(params)
    params.neutral({"num_images_per_prompt": (1,)})
    prompt = params.take("prompt")
    params.end()
    if inputs is None:
        refuse("inputs", "This field is required.", "required")
    if prompt is None and not (isinstance(inputs, str) and _PICTURE.match(inputs)):
        if inputs == "":
            refuse("inputs", "This field may not be blank.", "blank")
        return data | {"prompt": inputs}, outer
    return data | {"image": inputs, "prompt": "" if prompt is None else prompt}, outer


def _options(outer: Params) -> None:
    """What old clients send about caching and waiting: nothing is cached, and every request waits."""
    options = Params(outer.take("options", {}), below="options.")
    options.without_effect("use_cache", "Nothing is cached; give a seed for equal pictures.", silent=(False,))
    options.without_effect("wait_for_model", "Every request waits.", silent=(True,))
    options.end()
    outer.warnings.extend(options.warnings)


def _target_size(params: Params) -> dict[str, Any]:
    size = params.take("target_size")
    if size is None:
        return {}
    sides = Params(size, below="parameters.target_size.")
    data = sides.rename({"width": "width", "height": "height"})
    sides.end()
    return data


def _scheduler(params: Params) -> dict[str, Any]:
    name = params.take("scheduler")
    if name is None:
        return {}
    return {"scheduler": _SCHEDULERS.get(name, name) if isinstance(name, str) else name}


class ResultView(HuggingFaceView):
    """`GET /hf/results/<job id>`: what the above answers, once the job has ended."""

    def get(self, request: Request, generation_id: UUID) -> HttpResponse:
        """The picture's bytes."""
        generation = generation_get(user=request.user, generation_id=generation_id)
        generation_result(generation, waited=has_waited(request))
        image = image_get(user=request.user, generation_id=generation_id, index=0)
        return HttpResponse(image.read(), content_type=image.content_type, headers=job_header(generation))


class HealthView(HuggingFaceView):
    """`GET /hf/<model>/health`."""

    permission_classes = (AllowAny,)

    def get(self, request: Request, name: str) -> Response:
        """200 when a request for this model would be drawn: a worker lives, and its files are there or on their way."""
        checkpoint = checkpoint_get(name=name)
        if checkpoint.state == DiskState.BROKEN:
            return _unhealthy(checkpoint.error_detail)
        if not live_workers().exists():
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
