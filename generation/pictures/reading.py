"""Input pictures and masks: read with care, fitted by one rule, and kept in Django's storage."""

import io
import math
import re
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image, ImageCms

from generation.errors import InvalidImageError
from generation.pictures.budget import PixelBudget

PICTURE_FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PICTURE_PIXELS = 16_000_000
MAX_PICTURE_BYTES = 10 * 1024 * 1024

_DATA_URI = re.compile(r"data:[^,;\s]{0,100}(?:;[^,;\s]{1,100}){0,5};base64,", re.IGNORECASE)
# A progressive JPEG decodes all its pixels again for each scan; cameras write a dozen.
_MAX_JPEG_SCANS = 100
_MAX_JPEG_SCANNED_PIXELS = 20 * MAX_PICTURE_PIXELS
# Pillow reads one after the other in Python, and padding byte by byte. A JPEG's largest notes come in pieces of 64 kB,
# a PNG's pixels in pieces of a few kB.
_MAX_JPEG_SEGMENTS = 1000
_MAX_JPEG_PADDING = 4096
_MAX_PNG_CHUNKS = 20_000
# As much as the largest picture that is taken: decoding takes up to some twenty bytes of memory per pixel.
_BUDGET = PixelBudget(MAX_PICTURE_PIXELS)
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_ORIENTATION_TAG = 0x0112
_BROKEN = "The file is broken or cut off."
# What makes a picture upright, by its EXIF orientation.
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_ON_ITS_SIDE = (5, 6, 7, 8)

Size = tuple[int, int]


@dataclass(frozen=True)
class Picture:
    """An input picture that can be decoded, as its file: decoded it may be a hundred times as large.

    `size` is its width and height in pixels, upright. `animated` when there is more than its first frame.
    """

    data: bytes
    size: Size
    animated: bool = False

    @contextmanager
    def decoded(self, at_least: Size | None = None, *, beside: int = 0) -> Iterator[Image.Image]:
        """The decoded picture, upright, 8 bits, RGB or RGBA in sRGB, while it is needed.

        With `at_least` it may be smaller than it is, but not than that: a JPEG is then decoded at 1/2, 1/4 or 1/8.
        `beside` is how many pixels will be made of it meanwhile. Waits while others hold as many as one process may.
        """
        with _BUDGET.take(min(self.size[0] * self.size[1] + beside, MAX_PICTURE_PIXELS)):
            image = _decode(self.data, at_least)
            try:
                yield image
            finally:
                image.close()


def base64_decode(text: str) -> bytes:
    """The bytes of base64 text or of a base64 data URI, whatever type that claims. Raises InvalidImageError."""
    if uri := _DATA_URI.match(text):
        text = text[uri.end() :]
    if len(text) > math.ceil(MAX_PICTURE_BYTES / 3) * 4:
        raise InvalidImageError(f"At most {MAX_PICTURE_BYTES >> 20} MiB.")
    try:
        return a2b_base64(text, strict_mode=True)
    except (Base64Error, ValueError) as error:
        raise InvalidImageError(
            "Neither base64 (standard alphabet, padded, without line breaks) nor a base64 data URI."
        ) from error


def picture_open(data: bytes) -> Image.Image:
    """The picture in a PNG, JPEG or WebP file, whatever its name or type claims, with nothing of it decoded.

    Raises InvalidImageError; too large a picture is refused by its header.
    """
    if len(data) > MAX_PICTURE_BYTES:
        raise InvalidImageError(f"At most {MAX_PICTURE_BYTES >> 20} MiB.")
    picture_format, size = _header(data)
    _check_size(size)
    try:
        image = Image.open(io.BytesIO(data), formats=[picture_format])
    except Exception as error:
        raise InvalidImageError(_BROKEN) from error
    _check_size(image.size, header=size)  # a file may hold a second one
    return image


def picture_read(data: bytes) -> Picture:
    """A picture, decoded once to see that it can be. Raises InvalidImageError."""
    image = picture_open(data)
    size = image.size
    with _BUDGET.take(size[0] * size[1]):
        try:
            _load(image, at_least=(1, 1))
            # Telephones append further pictures to a JPEG ("MPO"), of which it is the main one: no animation.
            animated = getattr(image, "n_frames", 1) > 1 and image.format != "MPO"
            turned = _orientation(image) in _ON_ITS_SIDE
        finally:
            image.close()
    return Picture(data, size[::-1] if turned else size, animated=animated)


@contextmanager
def picture_loaded(data: bytes) -> Iterator[Image.Image]:
    """A picture with its pixels decoded as they are stored, for what its file says beside them.

    Waits as `Picture.decoded` does. Raises InvalidImageError.
    """
    with picture_open(data) as image, _BUDGET.take(image.width * image.height):
        _load(image, at_least=None)
        yield image


def picture_made(image: Image.Image, *, animated: bool = False) -> Picture:
    """What a door has made of a picture, to be handed on like one that was sent."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return Picture(buffer.getvalue(), image.size, animated=animated)


def _load(image: Image.Image, at_least: Size | None) -> None:
    """Decodes what was opened. Raises InvalidImageError."""
    try:
        if at_least is not None:
            image.draft(image.mode, at_least)
        image.load()
    except Exception as error:
        raise InvalidImageError(_BROKEN) from error


def _decode(data: bytes, at_least: Size | None) -> Image.Image:
    image = picture_open(data)
    _load(image, at_least)
    upright = _upright(image)
    decoded = _eight_bits(upright)
    for source in (image, upright):
        if source is not decoded:
            source.close()  # what only the garbage collector would free would stay for minutes
    return decoded


def _header(data: bytes) -> tuple[str, Size]:
    """Format and size as the first header says. Raises InvalidImageError."""
    size: Size | None = None
    picture_format = ""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
        picture_format, size = "PNG", _png_size(data)
    elif data.startswith(b"\xff\xd8\xff"):
        picture_format, size = "JPEG", _jpeg_size(data)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        picture_format, size = "WEBP", _webp_size(data)
    if not picture_format:
        raise InvalidImageError("Not a PNG, JPEG or WebP picture.")
    if size is None:
        raise InvalidImageError(_BROKEN)
    return picture_format, size


def _png_size(data: bytes) -> Size:
    """The size in a PNG's first chunk. Raises InvalidImageError for endless chunks."""
    position = 8
    for _ in range(_MAX_PNG_CHUNKS):
        if position >= len(data):
            return _big_endian(data[16:20], data[20:24])
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    raise InvalidImageError(f"A PNG may have at most {_MAX_PNG_CHUNKS} chunks.")


def _big_endian(width: bytes, height: bytes) -> Size:
    return int.from_bytes(width, "big"), int.from_bytes(height, "big")


def _jpeg_size(data: bytes) -> Size | None:
    """The size in a JPEG's frame header (ITU T.81, B.2.2), None without one before the first scan.

    Raises InvalidImageError for endless scans, segments, or padding between them.
    """
    size: Size | None = None
    position, padding = 2, 0
    for _ in range(_MAX_JPEG_SEGMENTS):
        found = data.find(b"\xff", position)
        begin = found
        while data[begin + 1 : begin + 2] == b"\xff" and begin - position <= _MAX_JPEG_PADDING:
            begin += 1
        padding += begin - position
        if found < 0 or padding > _MAX_JPEG_PADDING:
            raise InvalidImageError(_BROKEN)
        marker = data[begin + 1 : begin + 2]
        if marker == b"\xda":
            _check_scans(data, size)
            return size
        if size is None and b"\xc0" <= marker <= b"\xcf" and marker not in (b"\xc4", b"\xc8", b"\xcc"):
            size = _big_endian(data[begin + 7 : begin + 9], data[begin + 5 : begin + 7])
        position = begin + 2 + max(2, int.from_bytes(data[begin + 2 : begin + 4], "big"))
    raise InvalidImageError(f"A JPEG may have at most {_MAX_JPEG_SEGMENTS} segments.")


def _check_scans(data: bytes, size: Size | None) -> None:
    scans = data.count(b"\xff\xda")
    width, height = size or (0, 0)
    if scans > _MAX_JPEG_SCANS or (scans > 1 and scans * width * height > _MAX_JPEG_SCANNED_PIXELS):
        raise InvalidImageError(
            f"A JPEG may have at most {_MAX_JPEG_SCANS} scans, of {_MAX_JPEG_SCANNED_PIXELS // 1_000_000} million "
            "pixels together."
        )


def _webp_size(data: bytes) -> Size | None:
    """The canvas of a WebP (RFC 9649): extended, lossy or lossless."""
    match data[12:16]:
        case b"VP8X":
            width, height = data[24:27], data[27:30]
            return int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1
        case b"VP8 ":
            width, height = data[26:28], data[28:30]
            return int.from_bytes(width, "little") & 0x3FFF, int.from_bytes(height, "little") & 0x3FFF
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _check_size(size: Size, *, header: Size | None = None) -> None:
    width, height = size
    if width * height > MAX_PICTURE_PIXELS:
        raise InvalidImageError(
            f"{width}x{height} are more than {MAX_PICTURE_PIXELS // 1_000_000} million pixels."
        )
    if not width or not height:
        raise InvalidImageError("A picture without pixels.")
    if header not in (None, size):
        raise InvalidImageError("The file says two sizes.")


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # noqa: BLE001 - parsers of hostile bytes raise anything
        return 1  # a broken note is no broken picture
    return orientation if isinstance(orientation, int) else 1


def _upright(image: Image.Image) -> Image.Image:
    transpose = _TO_UPRIGHT.get(_orientation(image))
    return image if transpose is None else image.transpose(transpose)


def _eight_bits(image: Image.Image) -> Image.Image:
    """RGB or RGBA in sRGB, from palettes, grey, 16 bits, CMYK and other colour profiles; itself where it is that."""
    if image.mode.startswith("I"):
        # 16-bit grey: its upper byte. Pillow's own conversion clips at 255.
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    profile = image.info.get("icc_profile")
    if not image.has_transparency_data:
        return _to_srgb(image, profile)
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    if not profile:
        return rgba
    colours = _to_srgb(image.getchannel("L") if image.mode == "LA" else rgba.convert("RGB"), profile)
    colours.putalpha(rgba.getchannel("A"))
    return colours


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    plain = image if image.mode in ("L", "CMYK", "RGB") else image.convert("RGB")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(plain, source, _SRGB, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            converted = None  # a profile that is broken, or for another kind of picture
        if converted is not None:
            return converted
    return plain if plain.mode == "RGB" else plain.convert("RGB")
