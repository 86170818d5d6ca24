"""Input pictures and masks: read with care, fitted by one rule, and kept in Django's storage."""

import io
import math
import re
from binascii import Error as Base64Error
from binascii import a2b_base64
from dataclasses import dataclass

from PIL import Image, ImageCms

from generation.errors import InvalidImageError

PICTURE_FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PICTURE_PIXELS = 16_000_000
MAX_PICTURE_BYTES = 10 * 1024 * 1024

_DATA_URI = re.compile(r"data:[^,;\s]{0,100}(?:;[^,;\s]{1,100}){0,5};base64,", re.IGNORECASE)
# A progressive JPEG decodes all its pixels again for each scan; cameras write a dozen.
_MAX_JPEG_SCANS = 100
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

Size = tuple[int, int]


@dataclass(frozen=True)
class Picture:
    """A decoded input picture: upright, 8 bits, RGB or RGBA. `animated` when only its first frame was read."""

    image: Image.Image
    animated: bool = False

    @property
    def size(self) -> Size:
        """Width and height in pixels."""
        return self.image.size


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
    _check_size(image.size)  # a file may hold a second header
    return image


def picture_read(data: bytes) -> Picture:
    """Decodes a picture. Raises InvalidImageError."""
    image = picture_open(data)
    try:
        image.load()
    except Exception as error:
        raise InvalidImageError(_BROKEN) from error
    # Telephones append further pictures to a JPEG ("MPO"), of which it is the main one: no animation.
    animated = getattr(image, "n_frames", 1) > 1 and image.format != "MPO"
    return Picture(_eight_bits(_upright(image)), animated=animated)


def _header(data: bytes) -> tuple[str, Size]:
    """Format and size as the first header says. Raises InvalidImageError."""
    size: Size | None = None
    picture_format = ""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
        picture_format, size = "PNG", _big_endian(data[16:20], data[20:24])
    elif data.startswith(b"\xff\xd8\xff"):
        picture_format, size = "JPEG", _jpeg_size(data)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        picture_format, size = "WEBP", _webp_size(data)
    if not picture_format:
        raise InvalidImageError("Not a PNG, JPEG or WebP picture.")
    if size is None:
        raise InvalidImageError(_BROKEN)
    return picture_format, size


def _big_endian(width: bytes, height: bytes) -> Size:
    return int.from_bytes(width, "big"), int.from_bytes(height, "big")


def _jpeg_size(data: bytes) -> Size | None:
    """The size in a JPEG's frame header (ITU T.81, B.2.2). Raises InvalidImageError for endless scans."""
    if data.count(b"\xff\xda") > _MAX_JPEG_SCANS:
        raise InvalidImageError(f"A JPEG may have at most {_MAX_JPEG_SCANS} scans.")
    position = 2
    while data[position : position + 1] == b"\xff":
        marker = data[position + 1 : position + 2]
        if marker == b"\xff":  # a fill byte
            position += 1
        elif b"\xc0" <= marker <= b"\xcf" and marker not in (b"\xc4", b"\xc8", b"\xcc"):
            height, width = data[position + 5 : position + 7], data[position + 7 : position + 9]
            return _big_endian(width, height)
        else:
            position += 2 + max(2, int.from_bytes(data[position + 2 : position + 4], "big"))
    return None


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


def _check_size(size: Size) -> None:
    width, height = size
    if width * height > MAX_PICTURE_PIXELS:
        raise InvalidImageError(
            f"{width}x{height} are more than {MAX_PICTURE_PIXELS // 1_000_000} million pixels."
        )
    if not width or not height:
        raise InvalidImageError("A picture without pixels.")


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # noqa: BLE001 - parsers of hostile bytes raise anything
        return image  # a broken note is no broken picture
    transpose = _TO_UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if transpose is None else image.transpose(transpose)


def _eight_bits(image: Image.Image) -> Image.Image:
    """RGB or RGBA in sRGB, from palettes, grey, 16 bits, CMYK and other colour profiles."""
    if image.mode.startswith("I"):
        # 16-bit grey: its upper byte. Pillow's own conversion clips at 255.
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    profile = image.info.get("icc_profile")
    if not image.has_transparency_data:
        return _to_srgb(image, profile)
    rgba = image.convert("RGBA")
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
    return plain.convert("RGB")
