"""A denoiser's weights in eight bits, widened layer by layer as they are used: half the memory, and a little slower."""

import re
from typing import Any, Final

import torch
from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN

FLOAT8: Final = torch.float8_e4m3fn
# Smaller tensors are stored so only once their layers are known, since names alone do not tell a layer from a table.
_LARGE: Final = 1 << 20


def storable(kind: Any, name: str, tensor: torch.Tensor) -> bool:
    """Whether a tensor of such a module can be read in eight bits at once: a layer's weights, and a large one's."""
    skipped = (
        *DEFAULT_SKIP_MODULES_PATTERN,
        *(kind._keep_in_fp32_modules or ()),  # noqa: SLF001 - what the class says of itself
        *(kind._skip_layerwise_casting_patterns or ()),  # noqa: SLF001
    )
    layer, _, last = name.rpartition(".")
    return (
        last == "weight"
        and tensor.ndim > 1
        and tensor.numel() >= _LARGE
        and tensor.is_floating_point()
        and not any(re.search(pattern, layer) for pattern in skipped)
    )


def float8_store(module: Any, dtype: torch.dtype) -> None:
    """Stores a denoiser's layers in eight bits; they run in `dtype`."""
    module.enable_layerwise_casting(storage_dtype=FLOAT8, compute_dtype=dtype)
    layers = [layer for layer in module.modules() if _is_widened(layer)]
    for layer in layers:
        layer.compute_dtype = dtype  # peft's word for the format that an adapter on it is to have
    widened = {id(each) for layer in layers for each in layer.parameters()}
    for parameter in module.parameters():
        if parameter.dtype == FLOAT8 and id(parameter) not in widened:
            parameter.data = parameter.data.to(dtype)  # a table, which nobody would widen


def _is_widened(layer: Any) -> bool:
    """Whether a layer's weights become wide while it is called."""
    hooks = getattr(layer, "_diffusers_hook", None)
    return hooks is not None and hooks.get_hook("layerwise_casting") is not None
