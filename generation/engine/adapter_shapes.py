"""Whether an adapter's tensors fit a pipeline, looked at before peft sees them.

peft makes layers as large as the pipeline's own modules, for every module whose name ends in one that the file names.
So a small file with a high rank, wrong widths or short names would make it allocate gigabytes.
"""

import re
from typing import Any, Final

import torch

from generation.engine.quantized import weight_shape

_COMPONENTS: Final = ("unet", "transformer", "text_encoder", "text_encoder_2")
# What stands behind a module's name in diffusers' two ways of naming, which the pipeline's own converter leaves.
_HALF: Final = re.compile(
    r"(?P<module>.+?)(?:\.lora_(?P<peft>[AB])|(?:\.lora|_lora|\.lora_linear_layer)\.(?P<old>down|up))\.weight"
)


def adapter_check(pipeline: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Raises ValueError where a pair of tensors is not as wide as the module that it is for, or names several."""
    # As `load_lora_weights` does: other trainers' names of U-Net blocks are told by its shape.
    options = {"unet_config": pipeline.unet.config} if hasattr(pipeline, "unet") else {}
    converted = pipeline.lora_state_dict(dict(tensors), **options)
    names = converted[0] if isinstance(converted, tuple) else converted
    modules = {
        name: {path: module for path, module in part.named_modules() if hasattr(module, "weight")}
        for name in _COMPONENTS
        if (part := getattr(pipeline, name, None)) is not None
    }
    ends = {name: _ends(paths) for name, paths in modules.items()}
    for key, tensor in names.items():
        component, _, rest = key.partition(".")
        match = _HALF.fullmatch(rest)
        if match is None or component not in modules:
            continue
        path = _plain(match["module"])
        module = modules[component].get(path) or modules[component].get(path.removeprefix("text_model."))
        if module is not None:
            is_down = "A" in (match["peft"] or "") or match["old"] == "down"
            _check(key, tensor, weight_shape(module), is_down=is_down)
        elif path in ends[component]:
            raise ValueError(f"{key} would be put on every module of that name")


def _ends(paths: Any) -> set[str]:
    """What the names end in, from a dot on: peft takes these for the modules themselves."""
    found = set()
    for path in paths:
        parts = path.removesuffix(".base_layer").split(".")
        found |= {".".join(parts[start:]) for start in range(1, len(parts))}
    return found


def _plain(path: str) -> str:
    """A module's name, where the old naming spoke of attention processors."""
    path = path.replace(".processor", "")
    return f"{path}.0" if path.endswith(".to_out") else path


def _check(key: str, tensor: torch.Tensor, shape: torch.Size, *, is_down: bool) -> None:
    """Of a weight (out, in, kernel...) the first half reads the inputs, the second writes the outputs."""
    fits = tensor.shape[1:] == shape[1:] if is_down else tensor.shape[0] == shape[0]
    if not fits:
        raise ValueError(
            f"{key} is {tuple(tensor.shape)}, which does not fit the model's weight {tuple(shape)}"
        )
