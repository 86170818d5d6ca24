"""OpenAI's image requests in the native fields."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils.datastructures import MultiValueDict
from PIL import Image
from rest_framework.exceptions import ValidationError

from generation.compat.dialect import Params, refuse
from generation.pictures.reading import Picture
from generation.requests.serializers import PictureField

MAX_PARTIAL_IMAGES: Final = 3
# OpenAI's names, then those that vLLM-Omni adds, to the native ones.
FIELDS: Final[Mapping[str, str]] = {
    "prompt": "prompt",
    "model": "model",
    "n": "num_images",
    "output_format": "output_format",
    "negative_prompt": "negative_prompt",
    "num_inference_steps": "num_inference_steps",
    "guidance_scale": "guidance_scale",
    "seed": "seed",
}
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
# An adapter's name and strength, as vLLM-Omni's clients spell them.
_LORA_NAMES: Final = ("name", "lora_name", "path", "lora_path")
_LORA_SCALES: Final = ("scale", "lora_scale")


@dataclass(frozen=True)
class ImagesRequest:
    """A request in the native fields, and how its answer is to look."""

    data: dict[str, Any]
    warnings: list[dict[str, Any]]
    response_format: str
    stream: bool
    partial_images: int


def generation_read(body: Any) -> ImagesRequest:
    """`POST images/generations`. Raises ValidationError."""
    params = Params(body)
    return _read(params, {})


def edit_read(body: Any) -> ImagesRequest:
    """`POST images/edits`, as a form or as JSON with data URLs. Raises ValidationError."""
    params = Params(_form(body) if isinstance(body, MultiValueDict) else body)
    params.without_effect("input_fidelity", "`strength` says how much may change.")
    data = params.rename({"strength": "strength"}) | {"image": _picture(params)}
    mask = params.take("mask")
    if mask is not None:
        data["mask_image"] = _mask(_url_of(mask, "mask"))
    return _read(params, data)


def _form(form: MultiValueDict[str, Any]) -> dict[str, Any]:
    """A form's values, each once; only pictures come as lists."""
    values: dict[str, Any] = {}
    for name, given in form.lists():
        if name in ("image", "image[]"):
            values.setdefault("image", []).extend(given)
        elif len(given) > 1:
            refuse(str(name), "Given more than once.", "repeated")
        else:
            values[str(name)] = given[0]
    return values


def _picture(params: Params) -> Any:
    """The picture to edit: a form's file, a data URL, or an object that holds one."""
    pictures = params.take("images")
    name = "images"
    if pictures is None:
        pictures, name = params.take("image", []), "image"
    if not isinstance(pictures, list):
        pictures = [pictures]
    if len(pictures) != 1:
        refuse(name, "Exactly one picture is expected.", "required" if not pictures else "unsupported")
    return _url_of(pictures[0], name)


def _url_of(value: Any, param: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    if set(value) != {"image_url"}:
        refuse(param, "An object with `image_url` alone is expected; files are not kept here.")
    return value["image_url"]


def _mask(value: Any) -> SimpleUploadedFile:
    """The native mask, white where it is to be drawn anew: where OpenAI's is fully transparent."""
    try:
        picture: Picture = PictureField().run_validation(value)
    except ValidationError as error:
        raise ValidationError({"mask": error.detail}) from error
    with picture.decoded() as image:
        if image.mode != "RGBA":
            refuse(
                "mask",
                "Needs an alpha channel; what is fully transparent in it is drawn anew.",
                "invalid_image",
            )
        white: Image.Image = image.getchannel("A").point(lambda alpha: 0 if alpha else 255)
    buffer = BytesIO()
    white.save(buffer, format="PNG", compress_level=1)
    return SimpleUploadedFile("mask.png", buffer.getvalue(), "image/png")


def _read(params: Params, data: dict[str, Any]) -> ImagesRequest:
    data |= params.rename(FIELDS) | _size(params) | _loras(params)
    params.without_effect("quality", "num_inference_steps decides.", silent=("auto", "standard", "medium"))
    params.without_effect("style", "The prompt decides.")
    params.without_effect("moderation", "The server's own filter decides.", silent=("auto",))
    params.without_effect("output_compression", "The server's own quality is used.", silent=(100, "100"))
    # Who a picture is for is known by the token; nothing is done with these names.
    params.take("user")
    params.take("safety_identifier")
    params.choice("background", ("auto", "opaque"), "auto")
    response_format = params.choice("response_format", ("b64_json", "url"), "b64_json")
    stream = params.flag("stream")
    partial_images = params.number("partial_images", low=0, high=MAX_PARTIAL_IMAGES, default=0)
    params.end()
    if stream and response_format == "url":
        refuse("response_format", "A stream carries the pictures themselves: b64_json.", "unsupported")
    if stream and partial_images:
        data["preview_every"] = 1  # how many steps there will be is the model's to say
    return ImagesRequest(data, params.warnings, response_format, stream, partial_images)


def _size(params: Params) -> dict[str, int]:
    size = params.take("size", "auto")
    if size == "auto":
        return {}
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if match is None:
        refuse("size", "Must be `auto` or, for instance, `1024x1024`.")
    return {"width": int(match[1]), "height": int(match[2])}


def _loras(params: Params) -> dict[str, Any]:
    """`lora`: a name, `{"name", "scale"}`, or a list of these."""
    given = params.take("lora")
    if given is None:
        return {}
    return {"loras": [_lora(use) for use in (given if isinstance(given, list) else [given])]}


def _lora(use: Any) -> dict[str, Any]:
    if isinstance(use, str):
        return {"lora": use}
    params = Params(use, below="lora.")
    names = [name for key in _LORA_NAMES if (name := params.take(key)) is not None]
    scales = [scale for key in _LORA_SCALES if (scale := params.take(key)) is not None]
    params.end()
    if len(names) != 1 or len(scales) > 1:
        refuse("lora", "Each LoRA needs one `name` and at most one `scale`.")
    return {"lora": names[0], **({"scale": scales[0]} if scales else {})}
