"""A1111's ways to fit a picture and its mask to the size of what is drawn, and to fill what the mask covers."""

from typing import Final

from PIL import Image, ImageChops, ImageOps

from generation.compat.a1111.params import LenientParams
from generation.compat.dialect import refuse
from generation.errors import InvalidImageError
from generation.pictures.fetching import picture_fetch
from generation.pictures.reading import Picture, Size, base64_decode, picture_made, picture_read

STRETCH, CROP, FILL, LATENT = range(4)
_GREY: Final = (127, 127, 127)
_LANCZOS: Final = Image.Resampling.LANCZOS
_WHITE_FROM: Final = 128


def canvas_bytes(name: str, value: object, *, fetched: bool = True) -> bytes:
    """The file in a field, or at the address in it where it may be `fetched`. Raises ValidationError, FetchBusyError.

    Line breaks and missing padding are taken, as A1111 does; nothing else that the native fields refuse.
    """
    if not isinstance(value, str):
        refuse(name, "Base64 text is expected.", "invalid_image")
    if fetched and value.startswith(("https://", "http://")):
        try:
            return picture_fetch(value)
        except InvalidImageError as error:
            refuse(name, error.detail, error.code)
    text = "".join(value.split())
    if not text.startswith("data:"):
        text += "=" * (-len(text) % 4)
    try:
        return base64_decode(text)
    except InvalidImageError as error:
        refuse(name, error.detail, error.code)


def canvas_read(name: str, value: object) -> Picture:
    """The picture in a field, or at the address in it. Raises ValidationError, FetchBusyError."""
    data = canvas_bytes(name, value)
    try:
        return picture_read(data)
    except InvalidImageError as error:
        refuse(name, error.detail, error.code)


def canvas_fit(params: LenientParams, picture: Picture, size: Size, *, mode: int) -> Picture:
    """The picture at the size, without transparency."""
    with picture.decoded() as image:
        solid = image
        if image.mode == "RGBA":
            if image.getchannel("A").getextrema() != (255, 255):
                params.note("init_images", "Its transparent parts were filled.", used="white")
            solid = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        return picture_made(_fitted(solid, size, mode), animated=picture.animated)


def mask_fit(mask: Picture, size: Size, *, mode: int, inverted: bool) -> Image.Image:
    """The mask at the size, black and white; where it is transparent anywhere, its opaque parts are its white ones."""
    with mask.decoded() as image:
        alpha = image.getchannel("A") if image.mode == "RGBA" else None
        grey = alpha if alpha is not None and alpha.getextrema() != (255, 255) else image.convert("L")
    grey = _fitted(grey, size, mode).point(lambda value: 255 if value >= _WHITE_FROM else 0)
    return ImageChops.invert(grey) if inverted else grey


def _fitted(image: Image.Image, size: Size, mode: int) -> Image.Image:
    if image.size == size:
        return image
    if mode == CROP:
        return ImageOps.fit(image, size, _LANCZOS)
    if mode == FILL:
        return _bordered(ImageOps.contain(image, size, _LANCZOS), size)
    return image.resize(size, _LANCZOS)


def _bordered(image: Image.Image, size: Size) -> Image.Image:
    """The picture in the middle, its outermost rows and columns drawn out to the edges."""
    (wide, tall), (width, height) = image.size, size
    left, top = (width - wide) // 2, (height - tall) // 2
    canvas = Image.new(image.mode, size)
    canvas.paste(image, (left, top))
    below, right = top + tall, left + wide
    for room, edge in (
        ((0, 0, left, height), (left, 0, left + 1, height)),
        ((right, 0, width, height), (right - 1, 0, right, height)),
        ((0, 0, width, top), (0, top, width, top + 1)),
        ((0, below, width, height), (0, below - 1, width, below)),
    ):
        if room[2] > room[0] and room[3] > room[1]:
            canvas.paste(canvas.crop(edge).resize((room[2] - room[0], room[3] - room[1])), room[:2])
    return canvas


def hole_fill(image: Image.Image, mask: Image.Image, *, fill: int) -> Image.Image:
    """What lies below the mask replaced: 0 by the colours around it, 3 by grey, which is what empty latents show."""
    if fill == 0:
        ground = _surroundings(image, mask)
    elif fill == 3:
        ground = Image.new("RGB", image.size, _GREY)
    else:
        return image
    return Image.composite(ground, image, mask)


def _surroundings(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The colours outside the mask, run into it from ever nearer."""
    known = image.convert("RGBA")
    known.putalpha(ImageChops.invert(mask))
    premultiplied = known.convert("RGBa")
    ground = Image.new("RGBA", image.size, (*_GREY, 255))
    spread = max(image.size)
    while spread > 1:
        size = (max(1, image.width // spread), max(1, image.height // spread))
        small = premultiplied.resize(size, Image.Resampling.BOX).convert("RGBA")
        small.putalpha(small.getchannel("A").point(lambda alpha: 255 if alpha else 0))
        ground.alpha_composite(small.resize(image.size, Image.Resampling.BILINEAR))
        spread //= 2
    return ground.convert("RGB")
