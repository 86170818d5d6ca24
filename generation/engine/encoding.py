"""Pictures as files, with what made them inside and nothing that changes from run to run."""

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
_QUALITY: Final = 95
_MAX_EXIF_BYTES: Final = 65_000  # a JPEG segment holds 65,533
# How Exif marks a comment as UTF-16 text; A1111's tools look for the parameters there.
_UNICODE_COMMENT: Final = b"UNICODE\0"


# Fields of a batch that a receipt says in another form, or that do not change what is drawn.
_TOLD_OTHERWISE: Final = ("model", "image", "mask", "adapters", "strict", "preview_every")


def request_of(batch: Batch) -> dict[str, Any]:
    """A batch as plain JSON values, without ids, times or this host's folders: input pictures by their SHA-256."""
    return {
        **{
            each.name: getattr(batch, each.name) for each in fields(batch) if each.name not in _TOLD_OTHERWISE
        },
        "image_sha256": batch.image and hashlib.sha256(batch.image).hexdigest(),
        "mask_sha256": batch.mask and hashlib.sha256(batch.mask).hexdigest(),
        "loras": [{"lora": use.name, "sha256": use.sha256, "scale": use.scale} for use in batch.adapters],
    }


def parameters_text(batch: Batch, seed: int) -> str:
    """The parameters in the form that A1111's tools read."""
    lines = [" ".join([batch.prompt, *(f"<lora:{use.name}:{use.scale:g}>" for use in batch.adapters)])]
    if batch.negative_prompt:
        lines.append(f"Negative prompt: {batch.negative_prompt}")
    parts = [f"Steps: {batch.num_inference_steps}"]
    if batch.scheduler:
        parts.append(f"Sampler: {batch.scheduler}")
    parts += [
        f"CFG scale: {batch.guidance_scale:g}",
        f"Seed: {seed}",
        f"Size: {batch.width}x{batch.height}",
        f"Model: {batch.model.id}",
    ]
    if batch.strength is not None:
        parts.append(f"Denoising strength: {batch.strength:g}")
    if batch.clip_skip is not None:
        parts.append(f"Clip skip: {batch.clip_skip + 1}")  # A1111 counts the last layer as 1
    return "\n".join([*lines, ", ".join(parts)])


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
        image.save(buffer, format="PNG", pnginfo=info)
        return buffer.getvalue()
    exif = Image.Exif()
    exif[Base.ImageDescription] = _reproducible(batch, seed)
    comment = parameters_text(batch, seed).encode("utf-16-be")
    exif.get_ifd(IFD.Exif)[Base.UserComment] = _UNICODE_COMMENT + comment
    if (
        len(exif.tobytes()) > _MAX_EXIF_BYTES
    ):  # thousands of emoji: the parameters stay, the receipt has the rest
        del exif[Base.ImageDescription]
    image.save(buffer, format=batch.output_format.upper(), quality=_QUALITY, exif=exif)
    return buffer.getvalue()


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
