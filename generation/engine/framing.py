"""At which size, and from which part of its picture, a batch is drawn; and back to what was asked for."""

import dataclasses
import io
import math

from PIL import Image, ImageChops, ImageFilter

from generation.engine.specs import Batch

# Blends the edge of what was repainted into what was there, within the mask.
_FEATHER_PIXELS = 4
Box = tuple[int, int, int, int]


def opened(data: bytes | None, mode: str) -> Image.Image:
    """An input picture or a mask, in a mode of Pillow's."""
    with Image.open(io.BytesIO(data or b"")) as image:
        return image.convert(mode)


def framed(batch: Batch) -> Batch:
    """The batch at the size at which it is drawn, and its picture and mask, or the part around the mask, as well."""
    part = part_of(batch)
    if batch.drawn_size is None and part is None:
        return batch
    width, height = batch.drawn_size or (batch.width, batch.height)
    image, mask = (file and _resized(file, (width, height), part) for file in (batch.image, batch.mask))
    return dataclasses.replace(batch, width=width, height=height, image=image, mask=mask)


def unframed(images: list[Image.Image], batch: Batch) -> list[Image.Image]:
    """The pictures at the size that was asked for, a part in its place; outside a mask exactly as it was.

    Decoding alone would change every pixel.
    """
    part = part_of(batch)
    if part is not None:
        images = [_put(image, part, opened(batch.image, "RGB")) for image in images]
    elif batch.drawn_size is not None:
        images = [image.resize((batch.width, batch.height), Image.Resampling.LANCZOS) for image in images]
    if batch.kind != "inpaint":
        return images
    original, mask = opened(batch.image, "RGB"), opened(batch.mask, "L")
    soft = ImageChops.darker(mask, mask.filter(ImageFilter.GaussianBlur(_FEATHER_PIXELS)))
    return [Image.composite(image.convert("RGB"), original, soft) for image in images]


def part_of(batch: Batch) -> Box | None:
    """The part of the picture that is drawn: what is masked, with padding around it, in the picture's shape.

    None where all of it is.
    """
    if batch.padding_mask_crop is None or batch.mask is None:
        return None
    masked = opened(batch.mask, "L").getbbox()
    if masked is None:
        return None
    whole = (batch.width, batch.height)
    ranges = [
        (
            max(0, masked[axis] - batch.padding_mask_crop),
            min(side, masked[axis + 2] + batch.padding_mask_crop),
        )
        for axis, side in enumerate(whole)
    ]
    scale = max((high - low) / side for (low, high), side in zip(ranges, whole, strict=True))
    sides = [min(side, math.ceil(side * scale)) for side in whole]
    left, top = (
        min(max(0, (low + high - length) // 2), side - length)
        for (low, high), length, side in zip(ranges, sides, whole, strict=True)
    )
    part = (left, top, left + sides[0], top + sides[1])
    return None if part == (0, 0, *whole) else part


def _put(image: Image.Image, part: Box, picture: Image.Image) -> Image.Image:
    size = (part[2] - part[0], part[3] - part[1])
    picture.paste(image.convert("RGB").resize(size, Image.Resampling.LANCZOS), part[:2])
    return picture


def _resized(file: bytes, size: tuple[int, int], part: Box | None) -> bytes:
    """A picture, or a mask, which stays black and white, at another size; or a part of it."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(file)) as image:
        resample = Image.Resampling.NEAREST if image.mode == "L" else Image.Resampling.LANCZOS
        image.resize(size, resample, box=part).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
