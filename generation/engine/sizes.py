"""How many numbers a checkpoint's weights are, by the headers of its files: known before any of them is read."""

import json
import math
import struct
from pathlib import Path
from typing import Any, Final

import torch

from generation.engine.blocks import least_of
from generation.engine.errors import EngineModelBroken
from generation.engine.loader import CHECKER, dtype_for, weights_files
from generation.engine.planner import Weights
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


def weights_look(model: ModelRef, device: torch.device) -> Weights:
    """What a model's weights are in the number format that `device` runs them in. Raises what `UNREADABLE` lists."""
    index: dict[str, Any] = json.loads((model.folder / "model_index.json").read_text(encoding="utf-8"))
    dtype = dtype_for(model.dtype, device, components=index.keys())
    parts = [model.folder / name for name in index.keys() - set(CHECKER)]
    tensors = {
        part.name: {
            name: count
            for path in weights_files(part, variant=model.variant)
            for name, count in _numbers(path).items()
        }
        for part in parts
        if any(part.glob("*.safetensors"))
    }
    return Weights(
        {name: sum(counts.values()) for name, counts in tensors.items()},
        dtype.itemsize,
        {name: least_of(counts) for name, counts in tensors.items()},
    )


def _numbers(path: Path) -> dict[str, int]:
    """How many numbers each tensor of a safetensors file holds."""
    with path.open("rb") as file:
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        header = json.loads(file.read(min(length, _MAX_HEADER_BYTES)))
    return {name: math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
