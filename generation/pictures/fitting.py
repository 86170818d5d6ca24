"""Fitting input pictures and masks to the size of a generation, and saying what that changed."""

import io
import math
from functools import partial

from PIL import Image

from generation.pictures.reading import Picture, Size

MASK_THRESHOLD = 128


def side_near(pixels: float, *, low: int, high: int, multiple: int) -> int:
    """The side nearest to so many pixels: a multiple of `multiple` from `low` to `high`."""
    lowest, highest = _bounds(low, high, multiple)
    return min(max(round(pixels / multiple) * multiple, lowest), highest)


def _bounds(low: int, high: int, multiple: int) -> tuple[int, int]:
    return math.ceil(low / multiple) * multiple, high // multiple * multiple


def size_near(asked: Size, *, low: int, high: int, multiple: int) -> Size:
    """The size for one that a request names, within a checkpoint's limits: each side is moved for itself.

    Where a side is too long, both are shortened first: the aspect ratio of large pictures is kept.
    """
    _, highest = _bounds(low, high, multiple)
    scale = min(1.0, highest / max(asked))
    wide, tall = (side_near(side * scale, low=low, high=high, multiple=multiple) for side in asked)
    return wide, tall


def size_follow(
    picture: Size, *, width: int | None, height: int | None, low: int, high: int, multiple: int
) -> Size:
    """The size for a request that leaves out width, height or both: the picture's, within a checkpoint's limits.

    Sides are multiples of `multiple` from `low` to `high`; the aspect ratio is kept as well as that allows.
    """
    lowest, highest = _bounds(low, high, multiple)
    snap = partial(side_near, low=low, high=high, multiple=multiple)
    wide, tall = picture
    if width is not None:
        return width, snap(width * tall / wide)
    if height is not None:
        return snap(height * wide / tall), height
    scale = min(1.0, highest / max(picture))
    scale = max(scale, lowest / min(picture))
    return snap(wide * scale), snap(tall * scale)


def _cover_box(source: Size, size: Size) -> tuple[float, float, float, float]:
    """The largest part of the source, around its centre, that has the shape of `size`."""
    (wide, tall), (width, height) = source, size
    part_wide = min(wide, tall * width / height)
    part_tall = min(tall, wide * height / width)
    left, top = (wide - part_wide) / 2, (tall - part_tall) / 2
    return left, top, left + part_wide, top + part_tall


def _fit(image: Image.Image, size: Size, resample: Image.Resampling) -> Image.Image:
    """Scales to cover `size` and crops around the centre; nothing is cropped where the aspect ratio is the same."""
    if image.size == size:
        return image
    return image.resize(size, resample, box=_cover_box(image.size, size))


def _warning(param: str, reason: str, used: str | None) -> dict[str, str | None]:
    return {"param": param, "reason": reason, "used": used}


def image_prepare(
    picture: Picture, size: Size, *, param: str = "image"
) -> tuple[bytes, list[dict[str, str | None]]]:
    """The input picture as the engine takes it, an RGB PNG of `size`, and a warning for whatever was changed."""
    warnings = _animation_warning(param, picture)
    with picture.decoded(at_least=_enough(picture.size, size)) as image:
        see_through = image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255)
        fitted = _fit(image, size, Image.Resampling.LANCZOS)
        if fitted.mode == "RGBA":
            fitted = Image.alpha_composite(Image.new("RGBA", size, "white"), fitted).convert("RGB")
        png = _png(fitted)
    if see_through:
        warnings.append(_warning(param, "Its transparent parts were filled.", "white"))
    if picture.size != size:
        was, used = "{}x{}".format(*picture.size), "{}x{}".format(*size)
        same_shape = picture.size[0] * size[1] == picture.size[1] * size[0]
        done = "Resized" if same_shape else "Scaled to cover and cropped around its centre"
        warnings.append(_warning(param, f"{done}, from {was}.", used))
    return png, warnings


def edited_prepare(picture: Picture, *, most: int, param: str) -> tuple[bytes, list[dict[str, str | None]]]:
    """A picture to edit, an RGB PNG: in its own size, or smaller where its longer side has more than `most` pixels."""
    scale = min(1.0, most / max(picture.size))
    wide, tall = picture.size
    return image_prepare(picture, (max(1, round(wide * scale)), max(1, round(tall * scale))), param=param)


def _enough(source: Size, size: Size) -> Size:
    """What to decode of a picture that is to cover `size`: twice as much, of which the scaling makes the best."""
    scale = 2 * max(size[0] / source[0], size[1] / source[1])
    return math.ceil(source[0] * scale), math.ceil(source[1] * scale)


def mask_prepare(picture: Picture, size: Size) -> tuple[bytes, list[dict[str, str | None]]]:
    """The mask as the engine takes it, a PNG of `size` in black and white, and warnings; white is drawn anew.

    It is cropped like the picture it belongs to, which has the same size.
    """
    warnings = _animation_warning("mask_image", picture)
    with picture.decoded() as image:
        # Pillow's types know extrema of several channels only.
        mask = _mask_grey(image).point(lambda grey: 255 if grey >= MASK_THRESHOLD else 0)
    mask = _fit(mask, size, Image.Resampling.NEAREST)
    if mask.getbbox() is None:
        warnings.append(_warning("mask_image", "Nothing to repaint: the mask is black everywhere.", None))
    return _png(mask), warnings


def _mask_grey(image: Image.Image) -> Image.Image:
    """The mask's grey values; its alpha channel where that is all it draws with."""
    grey = image.convert("L")
    if image.mode != "RGBA":
        return grey
    alpha = image.getchannel("A")
    if _is_uniform(grey) and not _is_uniform(alpha):
        return alpha
    return Image.composite(grey, Image.new("L", image.size), alpha)


def _is_uniform(channel: Image.Image) -> bool:
    lowest, highest = channel.getextrema()
    return lowest == highest


def _animation_warning(param: str, picture: Picture) -> list[dict[str, str | None]]:
    return [_warning(param, "It is animated.", "its first frame")] if picture.animated else []


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
