"""What files of pictures say of how they were made, taken out of those that strangers get."""

import struct
from collections.abc import Iterator
from typing import Final

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PNG_NOTES: Final = frozenset({b"tEXt", b"zTXt", b"iTXt", b"eXIf"})
_WEBP_NOTES: Final = frozenset({b"EXIF", b"XMP "})
_WEBP_NOTE_FLAGS: Final = 0x08 | 0x04  # in the extended header: it has Exif, it has XMP
_JPEG_NOTES: Final = frozenset({0xE1, 0xFE})  # Exif and XMP, comments
_JPEG_SCAN: Final = 0xDA


def notes_removed(data: bytes) -> bytes:
    """A finished picture's file (PNG, JPEG or WebP) without its notes; the pixels stay bit for bit."""
    if data.startswith(_PNG):
        return _PNG + b"".join(chunk for chunk in _png_chunks(data) if chunk[4:8] not in _PNG_NOTES)
    if data.startswith(b"RIFF"):
        kept = b"".join(_bare_webp(chunk) for chunk in _webp_chunks(data) if chunk[:4] not in _WEBP_NOTES)
        return b"RIFF" + struct.pack("<I", len(kept) + 4) + b"WEBP" + kept
    return data[:2] + b"".join(part for part in _jpeg_parts(data) if part[1] not in _JPEG_NOTES)


def _png_chunks(data: bytes) -> Iterator[bytes]:
    position = len(_PNG)
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        yield data[position : position + length + 12]
        position += length + 12


def _webp_chunks(data: bytes) -> Iterator[bytes]:
    position = 12
    while position < len(data):
        (length,) = struct.unpack_from("<I", data, position + 4)
        size = 8 + length + length % 2
        yield data[position : position + size]
        position += size


def _bare_webp(chunk: bytes) -> bytes:
    if chunk[:4] != b"VP8X":
        return chunk
    return chunk[:8] + bytes([chunk[8] & ~_WEBP_NOTE_FLAGS]) + chunk[9:]


def _jpeg_parts(data: bytes) -> Iterator[bytes]:
    """The segments before the scans, and all that comes from the first scan on."""
    position = 2
    while data[position + 1] != _JPEG_SCAN:
        (length,) = struct.unpack_from(">H", data, position + 2)
        yield data[position : position + length + 2]
        position += length + 2
    yield data[position:]
