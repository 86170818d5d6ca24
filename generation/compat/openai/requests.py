"""OpenAI's image requests in the native fields."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.utils.datastructures import MultiValueDict

from generation.choices import QUALITY_STEPS, OutputFormat
from generation.compat.dialect import Params, warning
from generation.compat.openai.models import ModelMeant, model_read
from generation.compat.openai.pictures import picture_read_one, pictures_read
from generation.pictures.fitting import size_follow
from generation.requests.model_limits import MAX_STEPS
from models_registry.models import Checkpoint

MAX_PARTIAL_IMAGES: Final = 3
# OpenAI's names, then those that vLLM-Omni adds, to the native ones.
FIELDS: Final[Mapping[str, str]] = {
    "prompt": "prompt",
    "n": "num_images",
    "output_format": "output_format",
    "negative_prompt": "negative_prompt",
    "num_inference_steps": "num_inference_steps",
    "guidance_scale": "guidance_scale",
    "seed": "seed",
}
URL: Final = "url"
B64: Final = "b64_json"
# What OpenAI answers as `quality`; its other words, and what they come to.
QUALITIES: Final = {"auto": "medium", "standard": "medium", "hd": "high"}
# OpenAI's own sizes, which clients send whatever the model: where it cannot draw one, the nearest is drawn.
_SIZES: Final = ("256x256", "512x512", "1024x1024", "1536x1024", "1024x1536", "1792x1024", "1024x1792")
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_WHOLE: Final = 100  # output_compression of a picture that loses nothing more
# A LoRA's name and strength, as vLLM-Omni's clients spell them.
_LORA_NAMES: Final = ("name", "lora_name", "path", "lora_path")
_LORA_SCALES: Final = ("scale", "lora_scale")


@dataclass(frozen=True)
class ImagesRequest:
    """A request in the native fields, and how its answer is to look."""

    data: dict[str, Any]
    warnings: list[dict[str, Any]]
    errors: dict[str, Any]
    response_format: str
    quality: str
    stream: bool
    partial_images: int


def generation_read(body: Any) -> ImagesRequest:
    """`POST images/generations`. Raises ValidationError for what is no object."""
    params = Params(body)
    return _read(params, {}, model_read(params))


def edit_read(body: Any) -> ImagesRequest:
    """`POST images/edits`, a form, or JSON with data URLs and addresses. As above; raises FetchBusyError too."""
    params = _params(body)
    model = model_read(params)
    params.without_effect("input_fidelity", "`strength` says how much may change.")
    return _read(
        params, params.rename({"strength": "strength"}) | pictures_read(params, model.checkpoint), model
    )


def variation_read(body: Any) -> ImagesRequest:
    """`POST images/variations`: a picture again, without a prompt, answered by address. As `edit_read`."""
    params = _params(body)
    model = model_read(params)
    return _read(
        params,
        params.rename({"strength": "strength"}) | picture_read_one(params),
        model,
        response_format=URL,
    )


def _params(body: Any) -> Params:
    """The parameters of JSON, or of a form, whose values come once; only pictures come as lists."""
    if not isinstance(body, MultiValueDict):
        return Params(body)
    values: dict[str, Any] = {}
    for name, given in body.lists():
        if name in ("image", "image[]"):
            values.setdefault("image", []).extend(given)
        else:
            values[str(name)] = given[0]
    params = Params(values)
    for name, given in body.lists():
        if name not in ("image", "image[]") and len(given) > 1:
            params.blame(str(name), "Given more than once.", "repeated")
    return params


def _read(
    params: Params, data: dict[str, Any], model: ModelMeant, *, response_format: str = ""
) -> ImagesRequest:
    """The rest. `response_format` is what it is when the request does not say."""
    stream = params.flag("stream")
    if not response_format:
        response_format = URL if model.name.startswith("dall-e-") and not stream else B64
    data |= model.data | params.rename(FIELDS) | _size(params, model.checkpoint) | _loras(params)
    quality = _quality(params, data, model.checkpoint)
    _compression(params, data)
    params.without_effect("style", "The prompt decides.")
    params.without_effect("moderation", "The server's own filter decides.", silent=("auto",))
    params.without_effect("complexity", "`quality` or num_inference_steps decide.")
    params.without_effect("prompt_rewriter", "The prompt is taken as it is.")
    params.without_effect("markup", "Nothing reads what is marked in it; a mask says where to draw.")
    for name in [name for name in ("svg", *params.names("svg[")) if name in params]:
        params.without_effect(name, "No SVG is drawn.")
    for name in params.names("frame_"):
        params.without_effect(name, "No animation is made.")
    # Who a picture is for is known by the token; nothing is done with these names.
    params.take("user")
    params.take("safety_identifier")
    if params.choice("background", ("auto", "opaque", "transparent"), "auto") == "transparent":
        params.blame("background", "Transparent background is not supported for this model.", "invalid_value")
    response_format = params.choice("response_format", (B64, URL), response_format)
    partial_images = params.number("partial_images", low=0, high=MAX_PARTIAL_IMAGES, default=0)
    params.end()
    if stream and response_format == URL:
        params.blame("response_format", "A stream carries the pictures themselves: b64_json.", "unsupported")
    if stream and partial_images:
        data["preview_every"] = 1  # how many steps there will be is the model's to say
    return ImagesRequest(
        data, params.warnings, params.errors, response_format, quality, stream, partial_images
    )


def _quality(params: Params, data: dict[str, Any], checkpoint: Checkpoint | None) -> str:
    """Sets the number of steps; returns the quality as answers name it."""
    asked = params.choice("quality", (*QUALITY_STEPS, *QUALITIES), "auto")
    quality = QUALITIES.get(asked, asked)
    if QUALITY_STEPS[quality] == 1:
        return quality
    if "num_inference_steps" in data:
        params.warnings.append(warning("quality", "num_inference_steps decides."))
    elif checkpoint is not None:
        steps = round(checkpoint.default_steps * QUALITY_STEPS[quality])
        data["num_inference_steps"] = min(max(steps, 1), MAX_STEPS)
    return quality


def _compression(params: Params, data: dict[str, Any]) -> None:
    if "output_compression" not in params:
        return
    value = params.number("output_compression", low=0, high=_WHOLE, default=_WHOLE)
    if data.get("output_format", OutputFormat.PNG) != OutputFormat.PNG:
        data["output_quality"] = value
    elif value != _WHOLE:
        params.warnings.append(warning("output_compression", "A PNG loses nothing.", _WHOLE))


def _size(params: Params, checkpoint: Checkpoint | None) -> dict[str, int]:
    size = params.take("size", "auto")
    if size == "auto":
        return {}
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if match is None:
        params.blame("size", "Must be `auto` or, for instance, `1024x1024`.")
        return {}
    width, height = int(match[1]), int(match[2])
    if size in _SIZES and checkpoint is not None:
        near = size_follow(
            (width, height),
            width=None,
            height=None,
            low=checkpoint.min_size,
            high=checkpoint.max_size,
            multiple=checkpoint.side_multiple,
        )
        if near != (width, height):
            used = "{}x{}".format(*near)
            reason = f"{checkpoint.id} takes {checkpoint.min_size} to {checkpoint.max_size} pixels a side."
            params.warnings.append(warning("size", reason, used))
            width, height = near
    return {"width": width, "height": height}


def _loras(params: Params) -> dict[str, Any]:
    """`lora`: a name, `{"name", "scale"}`, or a list of these."""
    given = params.take("lora")
    if given is None:
        return {}
    uses = [_lora(params, use) for use in (given if isinstance(given, list) else [given])]
    return {"loras": [use for use in uses if use]}


def _lora(params: Params, use: Any) -> dict[str, Any]:
    if isinstance(use, str):
        return {"lora": use}
    inner = params.inner("lora", use)
    names = [name for key in _LORA_NAMES if (name := inner.take(key)) is not None]
    scales = [scale for key in _LORA_SCALES if (scale := inner.take(key)) is not None]
    inner.end()
    if len(names) != 1 or len(scales) > 1:
        params.blame("lora", "Each LoRA needs one `name` and at most one `scale`.")
        return {}
    return {"lora": names[0], **({"scale": scales[0]} if scales else {})}
