"""Pictures as files, with what made them inside and nothing that changes from run to run."""

import dataclasses
import hashlib
import io
import json
from dataclasses import fields
from typing import Any, Final

from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.PngImagePlugin import PngInfo

from generation.engine.specs import Batch, Picture

CONTENT_TYPES: Final = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
# Of zlib. At 6, its usual one, a picture takes four times as long and three quarters of the bytes.
_PNG_LEVEL: Final = 1
_MAX_EXIF_BYTES: Final = 65_000  # a JPEG segment holds 65,533
# What stands for the end of a prompt that was cut off, and how much of a negative one is left at least.
_CUT: Final = "…"
_SHORTEST_PROMPT_BYTES: Final = 2000
# How Exif marks a comment as UTF-16 text; A1111's tools look for the parameters there.
_UNICODE_COMMENT: Final = b"UNICODE\0"
# A1111's words for samplers and schedules; "" is the checkpoint's own.
_SAMPLER_WORDS: Final = {
    "": "Automatic",
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "lms": "LMS",
    "dpm2": "DPM2",
    "dpm2_a": "DPM2 a",
    "plms": "PLMS",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "unipc": "UniPC",
    "lcm": "LCM",
    "tcd": "TCD",
}
_SCHEDULE_WORDS: Final = {
    "": "Automatic",
    "karras": "Karras",
    "exponential": "Exponential",
    "beta": "Beta",
    "trailing": "SGM Uniform",
    "leading": "DDIM",
    "linspace": "Uniform",
}


# Fields of a batch that a receipt says in another form, or that do not change what is drawn.
_TOLD_OTHERWISE: Final = (
    "model",
    "image",
    "mask",
    "images",
    "adapters",
    "strict",
    "preview_every",
    "reproducible",
    "drawn_size",
    "software",
)


def request_of(batch: Batch) -> dict[str, Any]:
    """A batch as plain JSON values, without ids, times or this host's folders: input pictures by their SHA-256."""
    return {
        **{
            each.name: getattr(batch, each.name) for each in fields(batch) if each.name not in _TOLD_OTHERWISE
        },
        "image_sha256": batch.image and hashlib.sha256(batch.image).hexdigest(),
        "mask_sha256": batch.mask and hashlib.sha256(batch.mask).hexdigest(),
        "images_sha256": [hashlib.sha256(image).hexdigest() for image in batch.images],
        "loras": [{"lora": use.name, "sha256": use.sha256, "scale": use.scale} for use in batch.adapters],
    }


def parameters_text(batch: Batch, seed: int) -> str:
    """The parameters in the form that A1111's tools read."""
    lines = [" ".join([batch.prompt, *(f"<lora:{use.name}:{use.scale:g}>" for use in batch.adapters)])]
    if batch.negative_prompt:
        lines.append(f"Negative prompt: {batch.negative_prompt}")
    sampler, schedule = _sampler_words(batch.scheduler)
    parts = [f"Steps: {batch.num_inference_steps}", f"Sampler: {sampler}", f"Schedule type: {schedule}"]
    parts += [f"CFG scale: {batch.guidance_scale:g}", f"Seed: {seed}", f"Size: {batch.width}x{batch.height}"]
    if batch.model.short_hash:
        parts.append(f"Model hash: {batch.model.short_hash}")
    parts.append(f"Model: {batch.model.id}")
    if batch.strength is not None:
        parts.append(f"Denoising strength: {batch.strength:g}")
    if batch.clip_skip is not None:
        parts.append(f"Clip skip: {batch.clip_skip + 1}")  # A1111 counts the last layer as 1
    if batch.software:
        parts.append(f"Version: {batch.software}")
    return "\n".join([*lines, ", ".join(parts)])


def _sampler_words(scheduler: str) -> tuple[str, str]:
    """Sampler and schedule type, as A1111's tools name them."""
    sampler, _, schedule = scheduler.rpartition("_")
    if schedule not in _SCHEDULE_WORDS:
        sampler, schedule = scheduler, ""
    return _SAMPLER_WORDS[sampler], _SCHEDULE_WORDS[schedule]


def _reproducible(batch: Batch, seed: int) -> str:
    """The part of the receipt that equal requests share, as JSON."""
    model = {"model": batch.model.id, "repository": batch.model.repository, "revision": batch.model.revision}
    return json.dumps({**request_of(batch), **model, "seed": seed, "num_images": 1}, sort_keys=True)


def _file(image: Image.Image, batch: Batch, seed: int) -> bytes:
    buffer = io.BytesIO()
    if batch.output_format == "png":
        info = PngInfo()
        info.add_itxt("parameters", parameters_text(batch, seed))
        info.add_itxt("imagegen", _reproducible(batch, seed))
        image.save(buffer, format="PNG", pnginfo=info, compress_level=_PNG_LEVEL)
        return buffer.getvalue()
    exif = Image.Exif()
    exif[Base.ImageDescription] = _reproducible(batch, seed)
    _comment(exif, parameters_text(batch, seed))
    if batch.output_format == "jpeg" and len(exif.tobytes()) > _MAX_EXIF_BYTES:
        del exif[Base.ImageDescription]  # a long prompt: the parameters stay, the receipt has the rest
        if (surplus := len(exif.tobytes()) - _MAX_EXIF_BYTES) > 0:
            _comment(exif, _shortened(batch, seed, surplus))
    image.save(buffer, format=batch.output_format.upper(), quality=batch.output_quality, exif=exif)
    return buffer.getvalue()


def _comment(exif: Image.Exif, text: str) -> None:
    exif.get_ifd(IFD.Exif)[Base.UserComment] = _UNICODE_COMMENT + _utf16(text)


def _shortened(batch: Batch, seed: int, surplus: int) -> str:
    """The parameters without the ends of the prompts, so many bytes of UTF-16 less; most goes from the negative one."""
    kept = max(_SHORTEST_PROMPT_BYTES, len(_utf16(batch.negative_prompt)) - surplus)
    negative_prompt = _cut(batch.negative_prompt, kept)
    surplus -= len(_utf16(batch.negative_prompt)) - len(_utf16(negative_prompt))
    prompt = _cut(batch.prompt, len(_utf16(batch.prompt)) - surplus)
    return parameters_text(dataclasses.replace(batch, prompt=prompt, negative_prompt=negative_prompt), seed)


def _cut(text: str, most_bytes: int) -> str:
    encoded = _utf16(text)
    if len(encoded) <= most_bytes:
        return text
    return encoded[: max(0, most_bytes - len(_utf16(_CUT)))].decode("utf-16-be", "ignore") + _CUT


def _utf16(text: str) -> bytes:
    return text.encode("utf-16-be")


def picture_encode(image: Image.Image, batch: Batch, index: int) -> Picture:
    """A finished picture in the format that was asked for."""
    rgb = image.convert("RGB")
    seed = batch.seeds[index]
    return Picture(
        index=index,
        data=_file(rgb, batch, seed),
        content_type=CONTENT_TYPES[batch.output_format],
        pixel_sha256=hashlib.sha256(rgb.tobytes()).hexdigest(),
        width=rgb.width,
        height=rgb.height,
        seed=seed,
    )
