"""How many bytes a checkpoint's weights take, by the headers of its files: known before any of them is read."""

import json
import math
import struct
from pathlib import Path
from typing import Any, Final

import torch

from generation.engine.errors import EngineModelBroken, EngineOutOfMemory
from generation.engine.loader import CHECKER, dtype_for, weights_files
from generation.engine.specs import ModelRef

_LENGTH: Final = struct.Struct("<Q")
_MAX_HEADER_BYTES: Final = 100 << 20
# What files that are no checkpoint make of the functions here.
UNREADABLE: Final = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    struct.error,
    EngineModelBroken,
)


def model_bytes(model: ModelRef, device: torch.device) -> int:
    """The bytes of a model's weights in the number format that `device` runs them in.

    Raises what `UNREADABLE` lists.
    """
    index: dict[str, Any] = json.loads((model.folder / "model_index.json").read_text(encoding="utf-8"))
    size: int = dtype_for(model.dtype, device, components=index.keys()).itemsize
    parts = [model.folder / name for name in index.keys() - set(CHECKER)]
    numbers: int = sum(
        _numbers(path)
        for part in parts
        if any(part.glob("*.safetensors"))
        for path in weights_files(part, variant=model.variant)
    )
    return numbers * size


def _numbers(path: Path) -> int:
    """How many numbers a safetensors file holds."""
    with path.open("rb") as file:
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        header = json.loads(file.read(min(length, _MAX_HEADER_BYTES)))
    shapes: list[list[int]] = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    return sum(math.prod(shape) for shape in shapes)


def refuse_too_large(model: ModelRef, device: torch.device, *, capacity: int) -> None:
    """Raises EngineOutOfMemory where its weights alone are more than `capacity` bytes; also what `UNREADABLE` lists."""
    needed = model_bytes(model, device)
    if needed > capacity:
        needs, has = (f"{size / 1e9:.1f} GB" for size in (needed, capacity))
        raise EngineOutOfMemory(
            f"{model.id} does not fit: its weights take {needs}, and the device has {has}."
        )
