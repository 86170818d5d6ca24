"""A1111's `extra-single-image` and `extra-batch-images`: pictures made larger or smaller, one request at a time."""

import base64
import contextlib
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from generation.choices import OutputFormat
from generation.compat.a1111.canvas import canvas_bytes
from generation.compat.a1111.params import LenientParams
from generation.compat.dialect import refuse
from generation.errors import InvalidImageError
from generation.pictures.infotext import infotext_read
from generation.pictures.reading import MAX_PICTURE_PIXELS, Size, picture_open, picture_read
from imagegen_project.common.errors import DomainError

NO_UPSCALER: Final = "None"
UPSCALERS: Final[dict[str, Image.Resampling]] = {
    "Lanczos": Image.Resampling.LANCZOS,
    "Nearest": Image.Resampling.NEAREST,
}
MAX_PICTURES: Final = 64
_MAX_SIDE: Final = 16384
_QUALITY: Final = 95
# Each may hold hundreds of megabytes while it works, beside threads that have better things to do.
_PLACES: Final = threading.BoundedSemaphore(2)
_PATIENCE_S: Final = 30.0


class ExtrasBusyError(DomainError):
    """As many pictures are being resized as this process does at once."""

    code = "busy"
    http_status = 503
    title = "Too many pictures are being resized"


@dataclass(frozen=True)
class Extras:
    """What is to become of each picture: `factor` times as large, or `size`, cropped to it or covering it.

    `upscalers` are names of UPSCALERS, the second one blended over the first by `visibility`; without any the picture
    stays as it is.
    """

    factor: float | None
    size: Size
    crop: bool
    upscalers: tuple[str, ...]
    visibility: float
    show: bool
    warnings: list[dict[str, Any]]

    def target(self, size: Size) -> Size:
        """How large a picture of this size becomes."""
        if not self.upscalers:
            return size
        if self.factor is None and self.crop:
            return self.size
        times = self.factor or max(self.size[0] / size[0], self.size[1] / size[1])
        return max(1, round(size[0] * times)), max(1, round(size[1] * times))

    def page(self, was: Size, used: Size) -> str:
        """What was done, as the HTML that A1111 gives; no word in it is the client's."""
        done = f"{' and '.join(self.upscalers) or 'Unchanged'}: {was[0]}x{was[1]} to {used[0]}x{used[1]}."
        said = [f"{entry['param']}: {entry['reason']}" for entry in self.warnings if entry["param"] in _NAMES]
        return "".join(f"<p>{line}</p>" for line in (done, *said))


_NOT_FOLLOWED: Final = {
    "gfpgan_visibility": ((0,), "Faces are not restored."),
    "codeformer_visibility": ((0,), "Faces are not restored."),
}
_NAMES: Final = (*_NOT_FOLLOWED, "upscaler_1", "upscaler_2")


def extras_read(params: LenientParams) -> Extras:
    """What a request asks for beside its pictures. Raises ValidationError."""
    by_size = params.number("resize_mode", low=0, high=1, default=0) == 1
    factor = params.within("upscaling_resize", low=0.0, high=float(_MAX_SIDE))
    if factor is not None and factor <= 0:
        params.blame("upscaling_resize", "Must be above 0.")
    sides = [params.within(f"upscaling_resize_{side}", low=1, high=_MAX_SIDE, whole=True) for side in "wh"]
    first, second = _upscaler(params, "upscaler_1"), _upscaler(params, "upscaler_2")
    visibility = params.within("extras_upscaler_2_visibility", low=0, high=1) or 0.0
    upscalers = (first, second) if first and second and visibility else (first,)
    params.not_followed(_NOT_FOLLOWED)
    for name in ("codeformer_weight", "upscale_first"):
        params.take(name)
    crop = params.flag("upscaling_crop", default=True)
    show = params.flag("show_extras_results", default=True)
    params.end()
    params.strict_check()
    params.check()
    return Extras(
        factor=None if by_size else (factor or 2.0),
        size=(sides[0] or 512, sides[1] or 512),
        crop=crop,
        upscalers=tuple(filter(None, upscalers)),
        visibility=visibility,
        show=show,
        warnings=params.warnings,
    )


def _upscaler(params: LenientParams, name: str) -> str:
    """One that there is, "" for none; Lanczos, with a warning, in the place of any other."""
    value = params.take(name, NO_UPSCALER)
    if not isinstance(value, str):
        params.blame(name, "Text is expected.")
        return ""
    if value in ("", NO_UPSCALER):
        return ""
    if value not in UPSCALERS:
        params.note(name, "There is no such upscaler.", used="Lanczos")
    return value if value in UPSCALERS else "Lanczos"


def extras_draw(
    pictures: list[tuple[str, Any]], extras: Extras, output_format: str
) -> list[tuple[str, Size, Size]]:
    """Each picture, given as (field, base64 text), as base64 of the format, with its size before and after.

    Raises ValidationError, also where all of them together would have too many pixels; ExtrasBusyError.
    """
    alone = len(pictures) == 1  # many addresses would hold a thread for minutes
    files = [(name, canvas_bytes(name, value, fetched=alone)) for name, value in pictures]
    _check_pixels(files, extras)
    with resizing_place():
        return [_draw(name, data, extras, output_format) for name, data in files]


def _check_pixels(files: list[tuple[str, bytes]], extras: Extras) -> None:
    before = after = 0
    for name, data in files:
        size = _opened(name, data).size
        target = extras.target(size)
        before, after = before + size[0] * size[1], after + target[0] * target[1]
        if max(before, after) > MAX_PICTURE_PIXELS or max(target) > _MAX_SIDE:
            most = f"{MAX_PICTURE_PIXELS // 1_000_000} million pixels"
            refuse(name, f"At most {most} before and after, all pictures together.", "too_many_pixels")


@contextlib.contextmanager
def resizing_place() -> Iterator[None]:
    """A place among the few requests that decode pictures for these routes. Raises ExtrasBusyError."""
    if not _PLACES.acquire(timeout=_PATIENCE_S):
        raise ExtrasBusyError("Try again soon.", headers={"Retry-After": "5"})
    try:
        yield
    finally:
        _PLACES.release()


def _opened(name: str, data: bytes) -> Image.Image:
    try:
        return picture_open(data)
    except InvalidImageError as error:
        refuse(name, error.detail, error.code)


def _draw(name: str, data: bytes, extras: Extras, output_format: str) -> tuple[str, Size, Size]:
    try:
        picture, parameters = picture_read(data), infotext_read(data).parameters
    except InvalidImageError as error:
        refuse(name, error.detail, error.code)
    target = extras.target(picture.size)
    with picture.decoded(beside=target[0] * target[1]) as decoded:
        image = decoded
        layers = [_resized(image, extras, UPSCALERS[upscaler]) for upscaler in extras.upscalers]
        if layers:
            image = Image.blend(layers[0], layers[1], extras.visibility) if len(layers) > 1 else layers[0]
        return _encoded(image, parameters, output_format), picture.size, image.size


def _resized(image: Image.Image, extras: Extras, resample: Image.Resampling) -> Image.Image:
    width, height = extras.target(image.size)
    if extras.factor is not None or not extras.crop:
        return image.resize((width, height), resample)
    times = min(image.width / width, image.height / height)
    wide, tall = width * times, height * times
    left, top = (image.width - wide) / 2, (image.height - tall) / 2
    return image.resize((width, height), resample, box=(left, top, left + wide, top + tall))


def _encoded(image: Image.Image, parameters: str, output_format: str) -> str:
    buffer = io.BytesIO()
    if output_format == OutputFormat.PNG:
        info = PngInfo()
        if parameters:
            info.add_itxt("parameters", parameters)
        image.save(buffer, format="PNG", pnginfo=info, compress_level=4)
    else:
        image.convert("RGB").save(buffer, format=output_format.upper(), quality=_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
