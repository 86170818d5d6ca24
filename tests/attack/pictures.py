"""Pictures that cost much more than their bytes, or are none, through every door that takes pictures."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

from PIL import Image

from tests.attack.cases import Case
from tests.attack.target import Target
from tests.support.pictures import (
    PICTURE,
    encoded,
    gradient,
    jpeg_with_size,
    png_header,
    text_of,
    webp_header,
)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _with_chunk(kind: bytes, data: bytes) -> bytes:
    """A sound PNG with a chunk more behind its header."""
    return PICTURE[:33] + _chunk(kind, data) + PICTURE[33:]


def _animated() -> bytes:
    """Hundreds of frames."""
    buffer = io.BytesIO()
    frames = [Image.new("P", (512, 512), number % 256) for number in range(300)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


PICTURES: dict[str, Callable[[], bytes]] = {
    "flat, 4000 pixels a side": lambda: encoded(Image.new("RGB", (4000, 4000))),
    "one bit, 16000 pixels a side": lambda: encoded(Image.new("1", (16000, 16000))),
    "one row of 60,000 pixels": lambda: encoded(Image.new("RGB", (60000, 1))),
    "PNG that claims 2 gigapixels": lambda: png_header(46000, 46000),
    "WebP that claims its most": lambda: webp_header(16383, 16383),
    "JPEG that claims its most": lambda: jpeg_with_size(65500, 65500),
    "JPEG with fill bytes": lambda: encoded(gradient(), "JPEG").replace(b"\xff\xdb", b"\xff" * 4_000_000 + b"\xdb", 1),
    "progressive JPEG": lambda: encoded(gradient(3000, 3000), "JPEG", progressive=True, quality=1),
    "text of 64 MB, packed": lambda: _with_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(64_000_000), 9)),
    "profile of 64 MB, packed": lambda: _with_chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(64_000_000), 9)),
    "300 frames": _animated,
    "truncated": lambda: PICTURE[:-200],
    "TIFF": lambda: encoded(gradient(), "TIFF"),
    "EPS": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "nothing": lambda: b"",
    "noise": lambda: bytes(range(256)) * 400,
}  # fmt: skip


def _native(picture: bytes) -> dict[str, Any]:
    return {"json": {"prompt": "a", "image": text_of(picture), "strength": 0.5, "steps": 1}}


def _with_mask(picture: bytes) -> dict[str, Any]:
    return {"json": {"prompt": "a", "image": text_of(picture), "mask_image": text_of(picture), "steps": 1}}


def _form(picture: bytes) -> dict[str, Any]:
    return {"data": {"prompt": "a", "size": "256x256"}, "files": {"image": ("a.png", picture, "image/png")}}


def _a1111(picture: bytes) -> dict[str, Any]:
    return {
        "json": {"prompt": "a", "init_images": [text_of(picture)], "steps": 1, "width": 256, "height": 256}
    }


def _information(picture: bytes) -> dict[str, Any]:
    return {"json": {"image": "data:image/png;base64," + text_of(picture)}}


def _inputs(picture: bytes) -> dict[str, Any]:
    return {"json": {"inputs": text_of(picture), "parameters": {"prompt": "a", "num_inference_steps": 1}}}


DOORS: dict[str, Callable[[bytes], dict[str, Any]]] = {
    "/api/v1/generations": _native,
    "/api/v1/img2img": _with_mask,
    "/v1/images/edits": _form,
    "/hf/builtin": _inputs,
    "/sdapi/v1/img2img": _a1111,
    "/sdapi/v1/png-info": _information,
}
SENDERS = ("", "user")


def _send(picture: str, door: str, sender: str, target: Target) -> int:
    options = DOORS[door](PICTURES[picture]())
    # What is sound enough is drawn, and the attack does not wait for that.
    answer = target.call(sender, "POST", door, headers={"Prefer": "respond-async"}, **options)
    return int(answer.status_code)


def cases() -> Iterator[Case]:
    """Every picture through every door, by nobody and by a user."""
    for picture, door, sender in product(PICTURES, DOORS, SENDERS):
        yield Case("picture", f"{picture} → {door}", sender, partial(_send, picture, door, sender))
