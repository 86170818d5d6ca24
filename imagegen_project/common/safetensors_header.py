"""The header of a safetensors file: bounded and checked, without reading the tensors behind it.

A file is an 8-byte little-endian length, a JSON object of that length, and the tensors' bytes
(https://github.com/huggingface/safetensors#format). Everything that the format promises is verified, since a file may
come from anybody. Memory stays bounded too: what JSON becomes in Python is limited before it is parsed.
"""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, NoReturn

MAX_HEADER_BYTES: Final = 8 * 1024 * 1024
MAX_DIMENSIONS: Final = 8
_SNIFF_BYTES: Final = 64
# Around a million bytes of structure are more than 20,000 tensors; as Python objects they take some 20 MB.
_MAX_STRUCTURE_BYTES: Final = 1024 * 1024
_MAX_STRINGS: Final = 150_000
_MAX_DIGITS: Final = 18
_METADATA: Final = "__metadata__"

ITEM_BYTES: Final[Mapping[str, int]] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E5M2": 1,
    "F8_E4M3": 1,
    "F8_E8M0": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
    "C64": 8,
}

# What a file is that is no safetensors file, by how it begins.
_DISGUISES: Final[tuple[tuple[bytes, str], ...]] = (
    (b"PK\x03\x04", "a ZIP archive, as PyTorch's pickled .pt and .ckpt files are"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"version https://git-lfs", "a Git LFS pointer; the weights themselves were not downloaded"),
    (b"GGUF", "a GGUF file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"#!", "a script"),
    (b"{", "JSON without the length in front of it"),
    (b"<", "a web page (HTML or XML)"),
)
_PICKLE: Final = re.compile(rb"\x80[\x02-\x05]")
# Matches at every quote, so that a text without an end is passed over once only.
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.|\\\Z)*+"?', re.DOTALL)


class HeaderError(Exception):
    """The file is not a sound safetensors file; `reason` says why, as the rest of a sentence about the file."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor's entry; `start` and `end` are byte positions in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file says about itself."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def read_header(file: BinaryIO, *, size: int) -> Header:
    """The checked header of a file of `size` bytes, read from its start. Raises HeaderError.

    At most 8 MiB are read, and none of the tensors' bytes.
    """
    file.seek(0)
    start = file.read(_SNIFF_BYTES)
    length = int.from_bytes(start[:8], "little")
    _check_start(start, length, size)
    file.seek(8)
    raw = file.read(length)
    if len(raw) < length:
        raise HeaderError(f"it is truncated: {size} bytes were announced")
    _check_structure(raw)
    entries = _parse(raw)
    metadata = _metadata(entries.pop(_METADATA, {}))
    data_start = 8 + length
    tensors = {name: _tensor(name, entry, data_start) for name, entry in entries.items()}
    _check_coverage(tensors, data_start, size)
    return Header(tensors, metadata)


def quoted(name: str) -> str:
    """A name from a file, safe to show and to store: shortened, in ASCII."""
    return ascii(name if len(name) <= 120 else f"{name[:117]}...")


def _check_start(start: bytes, length: int, size: int) -> None:
    if size == 0:
        raise HeaderError("it is empty")
    if len(start) < 10:
        raise HeaderError(_disguise(start) or f"it has only {size} bytes, too few for a header")
    if not 2 <= length <= size - 8:
        reason = f"it announces a header of {length} bytes and has {size} bytes in all"
        raise HeaderError(_disguise(start) or reason)
    # A length that fits by chance: a JSON object must follow it.
    if start[8:9] != b"{":
        raise HeaderError(_disguise(start) or "its header is not a JSON object")
    if length > MAX_HEADER_BYTES:
        raise HeaderError(f"its header has {length} bytes; {MAX_HEADER_BYTES} are the limit")


def _disguise(start: bytes) -> str:
    text = start.lstrip().lower()
    for mark, what in _DISGUISES:
        if start.startswith(mark) or (mark in (b"{", b"<") and text.startswith(mark)):
            return f"it is {what}, not safetensors"
    if _PICKLE.match(start):
        return "it is a Python pickle, which could run code when it is loaded, not safetensors"
    return ""


def _check_structure(raw: bytes) -> None:
    """Bounds the number of strings, and of bytes outside them, before anything becomes an object."""
    outside = end = 0
    for count, match in enumerate(_STRING.finditer(raw), start=1):
        outside += match.start() - end
        end = match.end()
        if count > _MAX_STRINGS or outside > _MAX_STRUCTURE_BYTES:
            raise HeaderError("its header has too many entries")
    # Spaces may fill a header up.
    if outside + len(raw.rstrip(b" ")) - end > _MAX_STRUCTURE_BYTES:
        raise HeaderError("its header has too many entries")


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise HeaderError("its header is not UTF-8") from error
    # Wide characters make a text up to four times as large as its bytes.
    if sys.getsizeof(text) > MAX_HEADER_BYTES + 1024:
        raise HeaderError("its header takes too much memory")
    try:
        parsed = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except RecursionError as error:
        raise HeaderError("its header is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise HeaderError("its header is not valid JSON") from error
    if not isinstance(parsed, dict):
        raise HeaderError("its header is not a JSON object")
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise HeaderError(f"its header names {quoted(name)} twice")
        found[name] = value
    return found


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS or digits.startswith("-"):
        raise HeaderError(f"its header holds the impossible number {digits[:24]}")
    return int(digits)


def _no_number(text: str) -> NoReturn:
    raise HeaderError(f"its header holds {text[:24]} where only whole numbers may stand")


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise HeaderError("its metadata is not a map of texts")
    return value


def _tensor(name: str, entry: Any, data_start: int) -> TensorInfo:
    shown = quoted(name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise HeaderError(f"the entry of {shown} has not exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise HeaderError(f"{shown} has the unknown dtype {quoted(str(dtype))}")
    if not _whole_numbers(shape) or len(shape) > MAX_DIMENSIONS:
        raise HeaderError(f"the shape of {shown} is not a list of at most {MAX_DIMENSIONS} whole numbers")
    if not _whole_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise HeaderError(f"the data_offsets of {shown} are not a start and an end")
    size = ITEM_BYTES[dtype]
    for side in shape:
        size *= side  # Python's integers do not overflow, and eight factors of 18 digits stay small
    if size != offsets[1] - offsets[0]:
        raise HeaderError(f"{shown} has {offsets[1] - offsets[0]} bytes where its shape needs {size}")
    return TensorInfo(dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def _check_coverage(tensors: dict[str, TensorInfo], data_start: int, size: int) -> None:
    """The tensors lie one after the other, from the header's end to the file's."""
    end = data_start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start < end:
            raise HeaderError(f"{quoted(name)} overlaps another tensor")
        if tensor.start > end:
            raise HeaderError(f"there is a gap in front of {quoted(name)}")
        end = tensor.end
    if end > size:
        raise HeaderError(f"it is truncated: its tensors end at byte {end}, the file at {size}")
    if end < size:
        raise HeaderError(f"it has {size - end} bytes behind its last tensor")
