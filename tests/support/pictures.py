"""Pictures that the tests send: drawn, hostile, and what clients do to them on the way."""

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from PIL import Image


def gradient(width: int = 320, height: int = 256) -> Image.Image:
    """A picture without any symmetry: red grows to the right, green downwards."""
    red = Image.linear_gradient("L").rotate(90).resize((width, height))
    green = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", (red, green, Image.new("L", (width, height), 40)))


def encoded(image: Image.Image, picture_format: str = "PNG", **options: Any) -> bytes:
    """The picture as a file."""
    buffer = io.BytesIO()
    image.save(buffer, format=picture_format, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> Image.Image:
    """The picture in a file."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def text_of(data: bytes) -> str:
    """Base64."""
    return base64.b64encode(data).decode("ascii")


def mask_of(image: Image.Image) -> Image.Image:
    """A mask for a picture: its right half."""
    mask = Image.new("L", image.size)
    mask.paste(255, (image.width // 2, 0, image.width, image.height))
    return mask


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def webp_header(width: int, height: int) -> bytes:
    """An extended WebP that claims a canvas and holds next to nothing."""
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    frame = encoded(gradient(16, 16), "WEBP")[12:]
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_with_size(width: int, height: int) -> bytes:
    """A JPEG whose frame header claims another size than it has."""
    data = bytearray(encoded(gradient(16, 16), "JPEG"))
    position = data.index(b"\xff\xc0")
    data[position + 5 : position + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def kept() -> list[str]:
    """The input pictures in the storage."""
    folder = Path(settings.MEDIA_ROOT) / "inputs"
    return sorted(str(path.relative_to(settings.MEDIA_ROOT)) for path in folder.rglob("*.png"))


def upload(data: bytes, name: str = "picture.png", content_type: str = "image/png") -> SimpleUploadedFile:
    """A form's file."""
    return SimpleUploadedFile(name, data, content_type)


def params_of(response: Any) -> set[str]:
    """The fields that a problem blames."""
    assert response.status_code == 400, response.content
    return {error["param"] for error in response.json()["errors"]}


PICTURE = encoded(gradient(256, 256))
MASK = encoded(mask_of(gradient(256, 256)))
WITH_PICTURE = {"prompt": "a", "image": text_of(PICTURE)}
WITH_MASK = WITH_PICTURE | {"mask_image": text_of(MASK)}
