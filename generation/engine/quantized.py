"""Parts whose weights a library has quantized: read as they lie in their files, and built by that library.

What is quantized is several tensors per weight, in the library's own layout: they are never cast, and come and go
together. bitsandbytes has layers of its own; torchao has weights of its own in plain layers.
"""

import importlib
import json
import logging
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import torch
from diffusers.quantizers import DiffusersAutoQuantizer

BITSANDBYTES, TORCHAO = "bitsandbytes", "torchao"
# torchao's weights multiply in the format that their files name, which is this one.
TORCHAO_DTYPE: Final = torch.bfloat16

# What stands behind a weight's name, or in the place of its last word, for what belongs to it.
_BEHIND: Final = re.compile(r"(?P<weight>.+\.weight)\.[a-z_0-9.]+")
_BESIDE: Final = re.compile(r"(?P<layer>.+)\.(?:SCB|weight_format)")
_WITHIN: Final = re.compile(
    r"(?P<layer>.+)\._(?P<name>[a-z]\w*?)_"
    r"(?:qdata|scale|zero_point|scale_and_zero|per_tensor_scale|act_(?:pre|quant|per_tensor)_scale|act_quant_zero_point)"
)


def method_of(config: Any) -> str:
    """The library that quantized a part, by its configuration (diffusers' or transformers'); "" where none did."""
    quantized = (
        config.get("quantization_config")
        if isinstance(config, Mapping)
        else getattr(config, "quantization_config", None)
    )
    if not isinstance(quantized, Mapping):
        return ""
    # Older files of bitsandbytes do not name it.
    bits = quantized.get("load_in_4bit") or quantized.get("load_in_8bit")
    return str(quantized.get("quant_method") or (BITSANDBYTES if bits else ""))


def library_import(method: str) -> None:
    """Imports a library that quantizes. Raises ImportError, with what to install, and ValueError for any other."""
    if method not in (BITSANDBYTES, TORCHAO):
        raise ValueError(f"what {ascii(method)[:40]} quantized is not read here")
    try:
        importlib.import_module(method)
    except ImportError as error:
        raise ImportError(f"{method} cannot be imported: pip install {method}") from error
    # It warns at each call of each layer in eight bits that it calculates in float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def weight_of(name: str) -> str:
    """The weight that a tensor of a quantized part's files belongs to; itself where it is one."""
    if match := _BEHIND.fullmatch(name):
        return match["weight"]
    if match := _BESIDE.fullmatch(name):
        return f"{match['layer']}.weight"
    if match := _WITHIN.fullmatch(name):
        return f"{match['layer']}.{match['name']}"
    return name


def quantized_names(names: Collection[str]) -> set[str]:
    """Of all names of a part's tensors, those of quantized weights and of what belongs to them."""
    weights = {weight_of(name) for name in names if weight_of(name) != name}
    return {name for name in names if weight_of(name) in weights}


def torchao_join(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """torchao's weights from the tensors of safetensors files and these files' metadata. Raises ValueError."""
    join = importlib.import_module(
        "torchao.prototype.safetensors.safetensors_support"
    ).unflatten_tensor_state_dict
    # Its function takes each name apart at a dot.
    outside = {name: tensor for name, tensor in tensors.items() if "." not in name}
    named = [name for name in json.loads(metadata.get("tensor_names", "[]")) if "." in name]
    if not named:
        raise ValueError("Its safetensors files do not say how torchao's weights lie in them.")
    joined, left = join(
        {name: tensor for name, tensor in tensors.items() if "." in name},
        {**metadata, "tensor_names": json.dumps(named)},
    )
    if left:
        raise ValueError(f"{min(left)} belongs to no whole weight of torchao.")
    return {**joined, **outside}


def layers_fill(
    module: Any, config: Any, tensors: dict[str, torch.Tensor], device: torch.device
) -> Collection[str]:
    """Gives an empty module of diffusers bitsandbytes' layers around these tensors; returns the names of what it lacks.

    As diffusers does it when it loads such a part, but for its look for a GPU, which bitsandbytes does not need.
    """
    quantizer = DiffusersAutoQuantizer.from_config(dict(config["quantization_config"]), pre_quantized=True)
    single = list(module._keep_in_fp32_modules or ())  # noqa: SLF001 - diffusers' loader reads it likewise
    quantizer.preprocess_model(model=module, device_map=None, keep_in_fp32_modules=single)
    known = module.state_dict().keys()
    made = set()
    for name in known & tensors.keys():
        if quantizer.check_if_quantized_param(module, tensors[name], name, tensors, param_device=device):
            quantizer.create_quantized_param(module, tensors[name], name, device, tensors, None)
            made.add(name)
    quantizer.postprocess_model(module)
    plain = {name: tensor for name, tensor in tensors.items() if name in known and name not in made}
    missing, _ = module.load_state_dict(plain, strict=False, assign=True)
    return set(missing) - made


def weight_shape(module: Any) -> torch.Size:
    """What a module's weight looks like when it is not packed."""
    if isinstance(module, torch.nn.Linear):
        return torch.Size((module.out_features, module.in_features))
    return torch.Size(module.weight.shape)


class Held:
    """A weight's tensors in host memory, and how they, or copies of them, are put into its layer."""

    def __init__(self, layer: Any, parameter: Any) -> None:
        self.tensors, self.put = _taken_apart(layer, parameter)


def bytes_of(tensor: Any) -> int:
    """The bytes of a tensor, of torchao's or another."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(bytes_of(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    size: int = tensor.nbytes
    if (state := getattr(tensor, "quant_state", None)) is not None:
        size += sum(value.nbytes for _, _, value in _state_tensors(state))
    if (scales := getattr(tensor, "SCB", None)) is not None:
        size += scales.nbytes
    return size


def is_quantized(parameter: Any) -> bool:
    """Whether a parameter is a library's, and more than one tensor."""
    return hasattr(parameter, "__tensor_flatten__") or type(parameter).__name__ in (
        "Params4bit",
        "Int8Params",
    )


Put = Callable[[list[torch.Tensor]], None]


def _taken_apart(layer: Any, parameter: Any) -> tuple[list[torch.Tensor], Put]:
    if hasattr(parameter, "__tensor_flatten__"):
        return _of_torchao(parameter)
    plain = parameter.data.as_subclass(torch.Tensor)
    if type(parameter).__name__ == "Params4bit":
        return _of_four_bits(parameter, plain)
    return [plain, parameter.SCB], lambda tensors: _put_eight_bits(layer, parameter, tensors)


def _of_torchao(parameter: Any) -> tuple[list[torch.Tensor], Put]:
    """Its inner tensors, since not each of its kinds can be copied as a whole; the parameter stays the same object."""
    kind, size, stride = type(parameter), parameter.size(), parameter.stride()
    names, rest = parameter.__tensor_flatten__()

    def put(tensors: list[torch.Tensor]) -> None:
        whole = kind.__tensor_unflatten__(dict(zip(names, tensors, strict=True)), rest, size, stride)
        torch.utils.swap_tensors(parameter, torch.nn.Parameter(whole, requires_grad=False))

    return [getattr(parameter, name) for name in names], put


def _of_four_bits(parameter: Any, plain: torch.Tensor) -> tuple[list[torch.Tensor], Put]:
    beside = _state_tensors(parameter.quant_state)

    def put(tensors: list[torch.Tensor]) -> None:
        parameter.data = tensors[0]
        for (holder, name, _), tensor in zip(beside, tensors[1:], strict=True):
            setattr(holder, name, tensor)

    return [plain, *(value for _, _, value in beside)], put


def _state_tensors(state: Any) -> list[tuple[Any, str, torch.Tensor]]:
    """Where bitsandbytes keeps what belongs to a weight in four bits: object, attribute and tensor."""
    found = [(state, name, getattr(state, name, None)) for name in ("absmax", "code", "offset")]
    inner = getattr(state, "state2", None)
    if inner is not None:
        found += [(inner, name, getattr(inner, name, None)) for name in ("absmax", "code")]
    return [(holder, name, value) for holder, name, value in found if isinstance(value, torch.Tensor)]


def _put_eight_bits(layer: Any, parameter: Any, tensors: list[torch.Tensor]) -> None:
    parameter.data, parameter.SCB = tensors
    parameter.CB = parameter.data
    # The layer's own copies of both, which its next call takes from the parameter anew.
    layer.state.CB = layer.state.SCB = None
