"""How much a checkpoint's weights are, by the headers of its files: known before any of them is read."""

import json
import math
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import torch

from generation.engine.blocks import least_of
from generation.engine.errors import EngineModelBroken
from generation.engine.loader import CHECKER, dtype_for, quantized_parts, weights_files
from generation.engine.planner import Weights
from generation.engine.quantized import weight_of
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
    quantized = quantized_parts(model.folder, index.keys())
    dtype = dtype_for(model.dtype, device, components=index.keys(), quantized=quantized.values())
    parts = [model.folder / name for name in index.keys() - set(CHECKER)]
    tensors = {
        part.name: _weights(weights_files(part, variant=model.variant), in_bytes=part.name in quantized)
        for part in parts
        if any(part.glob("*.safetensors"))
    }
    return Weights(
        {name: sum(counts.values()) for name, counts in tensors.items()},
        dtype.itemsize,
        {name: least_of(counts) for name, counts in tensors.items()},
        frozenset(quantized),
    )


def _weights(paths: Iterable[Path], *, in_bytes: bool) -> dict[str, int]:
    """How many numbers each weight of these files holds, or how many bytes it takes with all that belongs to it."""
    found: dict[str, int] = {}
    for path in paths:
        for name, entry in _header(path).items():
            begin, end = entry["data_offsets"]
            size = end - begin if in_bytes else math.prod(entry["shape"])
            weight = weight_of(name) if in_bytes else name
            found[weight] = found.get(weight, 0) + size
    return found


def _header(path: Path) -> dict[str, Any]:
    """What a safetensors file says of each of its tensors."""
    with path.open("rb") as file:
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        header = json.loads(file.read(min(length, _MAX_HEADER_BYTES)))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}
