"""Looking at every weight of a file, in the task worker: none may be NaN or infinite. Memory stays bounded."""

from pathlib import Path
from typing import Final

import numpy as np

from imagegen_project.common.safetensors_header import TensorInfo, quoted, read_header
from loras.key_styles import AdapterError

CHUNK_BYTES: Final = 4 * 1024 * 1024

# NaN and infinity are the numbers whose exponent bits are all set; so no type has to be converted.
_EXPONENTS: Final = {
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F32": ("<u4", 0x7F800000),
    "F64": ("<u8", 0x7FF0000000000000),
}


def check_finite(path: Path) -> None:
    """Reads every weight in pieces of 4 MiB. Raises AdapterError for NaN or infinity, HeaderError for a broken file."""
    with path.open("rb") as file:
        header = read_header(file, size=path.stat().st_size)
        for name, tensor in header.tensors.items():
            if tensor.dtype not in _EXPONENTS:
                continue
            file.seek(tensor.start)
            for start in range(tensor.start, tensor.end, CHUNK_BYTES):
                if not _is_finite(file.read(min(CHUNK_BYTES, tensor.end - start)), tensor):
                    raise AdapterError(f"{quoted(name)} holds numbers that are NaN or infinite")


def _is_finite(piece: bytes, tensor: TensorInfo) -> bool:
    layout, exponent = _EXPONENTS[tensor.dtype]
    bits = np.frombuffer(piece, dtype=layout)
    return not bool(np.any((bits & exponent) == exponent))
