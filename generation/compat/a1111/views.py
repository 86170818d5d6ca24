"""A1111's API, below /sdapi/v1/."""

import contextlib
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.http import HttpResponse
from django.urls import re_path
from rest_framework.request import Request
from rest_framework.response import Response

from generation.choices import Kind
from generation.compat.a1111 import answers as results
from generation.compat.a1111.options import a1111_options_get, a1111_options_set
from generation.compat.a1111.requests import FIELDS, img2img_read, options_read, txt2img_read
from generation.compat.dialect import DialectView, NothingHereView, Params, job_header, refuse, result_wait
from generation.compat.shapes import a1111_shape
from generation.errors import GenerationEndedError, InputNotFoundError
from generation.models import Generation
from generation.selectors import generation_get, generation_result, generations_active
from generation.services import generation_cancel
from imagegen_project.auth.authentication import BasicTokenAuthentication, BearerAuthentication
from imagegen_project.common.http import caller
from imagegen_project.common.ids import UUID_REGEX
from imagegen_project.common.routers import route
from imagegen_project.common.waiting import Wait, has_waited
from models_registry.errors import ModelNotFoundError


class A1111View(DialectView):
    """A view in A1111's dialect; HTTP Basic with a token as the password works too."""

    shape = staticmethod(a1111_shape)
    authentication_classes = (BasicTokenAuthentication, BearerAuthentication)
    invalid_status = 422
    names = {native: name for name, native in FIELDS.items()} | {
        "image": "init_images",
        "mask_image": "mask",
        "strength": "denoising_strength",
        "scheduler": "sampler_name",
        "num_images": "batch_size",
        "loras": "prompt",
        "model": "override_settings.sd_model_checkpoint",
        "clip_skip": "override_settings.CLIP_stop_at_last_layers",
    }

    def draw(self, request: Request, kind: Kind, read: Any) -> Response:
        """Draws what a reader makes of the body, and waits."""
        data, warnings, send_images = read(request.data, a1111_options_get(owner=caller(request)))
        kinds = (Kind.INPAINT,) if "mask_image" in data else (kind,)
        query = "" if send_images else "?send_images=false"

        def wait(generation: Generation) -> Wait:
            return result_wait(request, generation, f"/sdapi/v1/results/{generation.id}{query}")

        return self.answer(request, data, kinds=kinds, warnings=warnings, afterwards=wait)


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
        """The pictures as base64, `parameters`, and `info`."""
        generation = generation_get(user=request.user, generation_id=generation_id)
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
    """`POST interrupt`."""

    def post(self, request: Request) -> Response:
        """Cancels the caller's job that `progress` shows; nobody else's."""
        active = list(generations_active(owner=caller(request))[:1])
        for generation in active:
            with contextlib.suppress(GenerationEndedError):
                generation_cancel(generation=generation)
        return Response({}, headers=_header_of(active))


def _header_of(active: list[Generation]) -> dict[str, str]:
    return job_header(active[0]) if active else {}


class OptionsView(A1111View):
    """`options`: what this dialect's requests use when they do not say otherwise, kept for each user."""

    def get(self, request: Request) -> Response:
        """All of them."""
        return Response(results.options_body(a1111_options_get(owner=caller(request))))

    def post(self, request: Request) -> HttpResponse:
        """Sets some or all; those that cannot be changed must keep their value."""
        present = a1111_options_get(owner=caller(request))
        params = Params(request.data)
        fixed = results.options_body(present)
        wanted = options_read(params, present)
        params.neutral({name: (fixed[name],) for name in ("sd_vae", "sd_checkpoint_hash")})
        params.end()
        try:
            a1111_options_set(
                owner=caller(request),
                checkpoint_name=wanted.checkpoint_id,
                clip_skip=wanted.clip_skip,
                output_format=wanted.output_format,
            )
        except ModelNotFoundError as error:
            refuse("sd_model_checkpoint", error.detail, error.code)
        return HttpResponse("null", content_type="application/json")


class ListView(A1111View):
    """What there is to choose from."""

    body: Any = None

    def get(self, request: Request) -> Response:
        """The list."""
        return Response(self.body() if callable(self.body) else self.body)


class LorasView(A1111View):
    """`GET loras`."""

    def get(self, request: Request) -> Response:
        """The adapters that the caller's prompts may name."""
        return Response(results.loras(caller(request)))


urlpatterns = [
    route("txt2img", Txt2ImgView.as_view(), "txt2img"),
    route("img2img", Img2ImgView.as_view(), "img2img"),
    route(rf"results/(?P<generation_id>{UUID_REGEX})", ResultView.as_view(), "results"),
    route("progress", ProgressView.as_view(), "progress"),
    route("interrupt", InterruptView.as_view(), "interrupt"),
    route("options", OptionsView.as_view(), "options"),
    route("loras", LorasView.as_view(), "loras"),
    *(
        route(name, ListView.as_view(body=body), name)
        for name, body in {
            "sd-models": results.models,
            "samplers": results.samplers,
            "schedulers": results.schedule_types,
            "upscalers": results.UPSCALERS,
            "latent-upscale-modes": results.LATENT_UPSCALE_MODES,
            "sd-vae": results.VAES,
            "scripts": results.SCRIPTS,
        }.items()
    ),
    re_path(r"", NothingHereView.as_view(shape=a1111_shape)),
]
