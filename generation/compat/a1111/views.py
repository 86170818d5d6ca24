"""A1111's API, below /sdapi/v1/."""

import contextlib
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from django.http import HttpResponse
from django.urls import re_path
from rest_framework.request import Request
from rest_framework.response import Response

from generation.choices import Kind, Status
from generation.compat.a1111 import answers as results
from generation.compat.a1111.canvas import canvas_bytes
from generation.compat.a1111.extras import MAX_PICTURES, extras_draw, extras_read
from generation.compat.a1111.lists import LISTS, loras
from generation.compat.a1111.options import options_body, options_get, options_set
from generation.compat.a1111.params import LenientParams
from generation.compat.a1111.requests import FIELDS, img2img_read, txt2img_read
from generation.compat.dialect import DialectView, NothingHereView, job_header, refuse, result_wait
from generation.compat.shapes import a1111_shape
from generation.errors import GenerationEndedError, InputNotFoundError, InvalidImageError
from generation.models import Generation
from generation.pictures.infotext import infotext_parse, infotext_read
from generation.selectors import generation_get, generation_result, generations_active
from generation.services import generation_cancel
from imagegen_project.auth.authentication import BasicTokenAuthentication, BearerAuthentication
from imagegen_project.auth.open_access import OpenAuthentication
from imagegen_project.common.errors import DomainError
from imagegen_project.common.http import caller
from imagegen_project.common.ids import UUID_REGEX
from imagegen_project.common.parsers import UntypedJSONParser
from imagegen_project.common.routers import route
from imagegen_project.common.waiting import Wait, has_waited

# Said where no credentials came: A1111's own clients only know the second way.
_CREDENTIALS: Final = (
    "Send `Authorization: Bearer <token>`, or HTTP Basic with the token as the user name or as the password."
)


class NotOfferedError(DomainError):
    """A1111 can do it, this service cannot."""

    code = "not_offered"
    http_status = 501
    title = "This is not offered here"


class A1111View(DialectView):
    """A view in A1111's dialect; HTTP Basic with a token works too, and nothing at all from A1111_OPEN_NETWORKS."""

    shape = staticmethod(a1111_shape)
    authentication_classes = (BasicTokenAuthentication, BearerAuthentication, OpenAuthentication)
    parser_classes = (UntypedJSONParser,)
    invalid_status = 422
    names = {native: name for name, native in FIELDS.items()} | {
        "image": "init_images",
        "mask_image": "mask",
        "strength": "denoising_strength",
        "scheduler": "sampler_name",
        "padding_mask_crop": "inpaint_full_res_padding",
        "num_images": "batch_size",
        "loras": "prompt",
        "model": "override_settings.sd_model_checkpoint",
        "clip_skip": "override_settings.CLIP_stop_at_last_layers",
    }

    def draw(self, request: Request, kind: Kind, read: Any) -> Response:
        """Draws what a reader makes of the body, and waits."""
        drawing = read(request.data, options_get(owner=caller(request)))
        kinds = (Kind.INPAINT,) if "mask_image" in drawing.data else (kind,)
        query = "" if drawing.send_images else "?send_images=false"

        def wait(generation: Generation) -> Wait:
            return result_wait(request, generation, f"/sdapi/v1/results/{generation.id}{query}")

        return self.answer(
            request,
            drawing.data,
            kinds=kinds,
            warnings=drawing.warnings,
            errors=drawing.errors,
            afterwards=wait,
        )

    def _answer_error(self, error: Exception, context: dict[str, Any]) -> Response:
        response = super()._answer_error(error, context)
        if response.status_code == 401:
            detail = f"{response.data['errors']} {_CREDENTIALS}"
            response.data |= {"detail": detail, "errors": detail}
        return response


class Txt2ImgView(A1111View):
    """`POST txt2img`."""

    def post(self, request: Request) -> Response:
        """Draws and answers pictures."""
        return self.draw(request, Kind.TXT2IMG, txt2img_read)


class Img2ImgView(A1111View):
    """`POST img2img`."""

    def post(self, request: Request) -> Response:
        """Draws and answers pictures; 404 without one to start from."""
        if isinstance(request.data, Mapping) and not request.data.get("init_images"):
            raise InputNotFoundError("Init image not found")
        return self.draw(request, Kind.IMG2IMG, img2img_read)


class ResultView(A1111View):
    """`GET results/<job id>`: what the two above answer, once the job has ended."""

    def get(self, request: Request, generation_id: UUID) -> Response:
        """The pictures as base64, `parameters`, and `info`; of an interrupted job what there was of it."""
        generation = generation_get(user=request.user, generation_id=generation_id)
        if generation.status != Status.CANCELED:
            generation_result(generation, waited=has_waited(request))
        with_pictures = request.query_params.get("send_images") != "false"
        body = results.pictures_body(generation, with_pictures=with_pictures)
        return Response(body, headers=job_header(generation))


class ProgressView(A1111View):
    """`GET progress`, about the caller's own jobs, from whichever door."""

    def get(self, request: Request) -> Response:
        """The one that runs, else the one that is next."""
        active = list(generations_active(owner=caller(request)))
        with_picture = request.query_params.get("skip_current_image", "false").lower() != "true"
        return Response(results.progress(active, with_picture=with_picture), headers=_header_of(active))


class InterruptView(A1111View):
    """`POST interrupt`, and `POST skip`: all pictures of a request are drawn together, so that skipping one ends it."""

    body: Any = {}

    def post(self, request: Request) -> HttpResponse:
        """Cancels the caller's job that `progress` shows; nobody else's."""
        active = list(generations_active(owner=caller(request))[:1])
        for generation in active:
            with contextlib.suppress(GenerationEndedError):
                generation_cancel(generation=generation)
        return _bare(self.body, headers=_header_of(active))


def _header_of(active: list[Generation]) -> dict[str, str]:
    return job_header(active[0]) if active else {}


def _bare(body: Any, headers: dict[str, str] | None = None) -> HttpResponse:
    """An answer whose whole body is `{}` or `null`, which DRF would leave empty."""
    return HttpResponse("null" if body is None else "{}", content_type="application/json", headers=headers)


class OptionsView(A1111View):
    """`options`: what this dialect's requests use when they do not say otherwise, kept for each user."""

    def get(self, request: Request) -> Response:
        """All of them."""
        return Response(options_body(options_get(owner=caller(request))))

    def post(self, request: Request) -> HttpResponse:
        """Sets some or all."""
        options_set(owner=caller(request), body=request.data)
        return _bare(None)


class ListView(A1111View):
    """What there is to choose from."""

    body: Any = None

    def get(self, request: Request) -> Response:
        """The list."""
        return Response(self.body() if callable(self.body) else self.body)


class LorasView(A1111View):
    """`GET loras`."""

    def get(self, request: Request) -> Response:
        """The LoRA that the caller's prompts may name."""
        return Response(loras(caller(request)))


class NothingToDoView(A1111View):
    """`POST refresh-…`, `unload-checkpoint`, `reload-checkpoint`: lists are always fresh, and workers see to memory."""

    body: Any = None

    def post(self, request: Request) -> HttpResponse:
        """Done."""
        return _bare(self.body)


class PngInfoView(A1111View):
    """`POST png-info`: how a picture was made."""

    def post(self, request: Request) -> Response:
        """The parameters as text and one by one, and the file's other texts."""
        data = canvas_bytes("image", LenientParams(request.data).take("image", ""))
        try:
            texts = infotext_read(data)
        except InvalidImageError as error:
            refuse("image", error.detail, error.code)
        text = texts.parameters
        return Response({"info": text, "items": texts.others, "parameters": infotext_parse(text)})


class ExtraSingleView(A1111View):
    """`POST extra-single-image`: a picture resized."""

    def post(self, request: Request) -> Response:
        """The picture, in the format of `options`, and what was done."""
        params = LenientParams(request.data)
        picture = params.take("image", "")
        extras = extras_read(params)
        output_format = options_get(owner=caller(request)).output_format
        ((image, was, used),) = extras_draw([("image", picture)], extras, output_format)
        return Response({"image": image if extras.show else None, "html_info": extras.page(was, used)})


class ExtraBatchView(A1111View):
    """`POST extra-batch-images`: several of them."""

    def post(self, request: Request) -> Response:
        """The pictures in their order, and what was done."""
        params = LenientParams(request.data)
        given = params.take("imageList")
        if not isinstance(given, list) or not 1 <= len(given) <= MAX_PICTURES:
            params.blame("imageList", f"A list of 1 to {MAX_PICTURES} pictures is expected.")
        extras = extras_read(params)
        pictures = [(f"imageList.{index}.data", LenientParams(entry, below="imageList.").take("data"))
                    for index, entry in enumerate(given)]  # fmt: skip
        output_format = options_get(owner=caller(request)).output_format
        drawn = extras_draw(pictures, extras, output_format)
        pages = "".join(extras.page(was, used) for _, was, used in drawn)
        return Response(
            {"images": [image for image, _, _ in drawn] if extras.show else [], "html_info": pages}
        )


class NotOfferedView(A1111View):
    """`POST interrogate`."""

    def post(self, request: Request) -> Response:
        """Raises NotOfferedError."""
        raise NotOfferedError("No model here describes pictures.")


urlpatterns = [
    route("txt2img", Txt2ImgView.as_view(), "txt2img"),
    route("img2img", Img2ImgView.as_view(), "img2img"),
    route("extra-single-image", ExtraSingleView.as_view(), "extra-single-image"),
    route("extra-batch-images", ExtraBatchView.as_view(), "extra-batch-images"),
    route("png-info", PngInfoView.as_view(), "png-info"),
    route("interrogate", NotOfferedView.as_view(), "interrogate"),
    route(rf"results/(?P<generation_id>{UUID_REGEX})", ResultView.as_view(), "results"),
    route("progress", ProgressView.as_view(), "progress"),
    route("interrupt", InterruptView.as_view(), "interrupt"),
    route("skip", InterruptView.as_view(body=None), "skip"),
    route("options", OptionsView.as_view(), "options"),
    route("loras", LorasView.as_view(), "loras"),
    *(
        route(f"refresh-{what}", NothingToDoView.as_view(), f"refresh-{what}")
        for what in ("checkpoints", "vae", "loras", "embeddings")
    ),
    *(
        route(f"{verb}-checkpoint", NothingToDoView.as_view(body={}), f"{verb}-checkpoint")
        for verb in ("unload", "reload")
    ),
    *(route(name, ListView.as_view(body=body), name) for name, body in LISTS.items()),
    re_path(r"", NothingHereView.as_view(shape=a1111_shape)),
]
