"""Hugging Face requests, read into the native fields."""

import re
from collections.abc import Mapping
from typing import Any, Final

from django.core.files.uploadedfile import SimpleUploadedFile
from rest_framework.exceptions import NotAcceptable

from generation.choices import OutputFormat
from generation.compat.dialect import Params

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
        "clip_skip", "true_cfg_scale", "guidance_rescale", "loras", "mask_image",
        "padding_mask_crop", "timeout_s", "reproducible", "strict",
    )
}  # fmt: skip


# diffusers' classes, which this contract calls schedulers by.
_SCHEDULERS: Final = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "DPMSolverSinglestepScheduler": "dpmpp_sde",
    "EulerAncestralDiscreteScheduler": "euler_a",
    "EulerDiscreteScheduler": "euler",
    "FlowMatchEulerDiscreteScheduler": "euler",
    "FlowMatchHeunDiscreteScheduler": "heun",
    "HeunDiscreteScheduler": "heun",
    "KDPM2AncestralDiscreteScheduler": "dpm2_a",
    "KDPM2DiscreteScheduler": "dpm2",
    "LCMScheduler": "lcm",
    "LMSDiscreteScheduler": "lms",
    "PNDMScheduler": "plms",
    "TCDScheduler": "tcd",
    "UniPCMultistepScheduler": "unipc",
}


# How base64 of a PNG, JPEG or WebP begins; no prompt does.
_PICTURE = re.compile(r"data:image/|iVBORw0KGgo|/9j/|UklGR")


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
    """The native fields. Raises ValidationError for what is no object."""
    outer = Params(body)
    inputs = outer.take("inputs")
    params = outer.inner("parameters", outer.take("parameters", {}))
    _options(outer)
    outer.end()
    data = params.rename(_FIELDS) | _target_size(params) | _scheduler(params)
    params.neutral({"num_images_per_prompt": (1,)})
    prompt = params.take("prompt")
    params.end()
    if inputs is None:
        outer.blame("inputs", "This field is required.", "required")
    if prompt is None and not (isinstance(inputs, str) and _PICTURE.match(inputs)):
        if inputs == "":
            outer.blame("inputs", "This field may not be blank.", "blank")
        return data | {"prompt": inputs}, outer
    return data | {"image": inputs, "prompt": "" if prompt is None else prompt}, outer


def _options(outer: Params) -> None:
    """What old clients send about caching and waiting: nothing is cached, and every request waits."""
    options = outer.inner("options", outer.take("options", {}))
    options.without_effect("use_cache", "Nothing is cached; give a seed for equal pictures.", silent=(False,))
    options.without_effect("wait_for_model", "Every request waits.", silent=(True,))
    options.end()


def _target_size(params: Params) -> dict[str, Any]:
    size = params.take("target_size")
    if size is None:
        return {}
    sides = params.inner("target_size", size)
    data = sides.rename({"width": "width", "height": "height"})
    sides.end()
    return data


def _scheduler(params: Params) -> dict[str, Any]:
    name = params.take("scheduler")
    if name is None:
        return {}
    return {"scheduler": _SCHEDULERS.get(name, name) if isinstance(name, str) else name}
