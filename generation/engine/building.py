"""From tensors in host memory to a pipeline on the device, without copying them where the device is the host.

It must run in the pipeline thread: what keeps modules from allocating weights, and the default number format, are
switches of the whole process. What comes before is `loader.py`.
"""

import copy
import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights

from generation.engine.cpu import quick_bfloat16
from generation.engine.errors import EngineModelBroken
from generation.engine.float8 import float8_store
from generation.engine.loader import BROKEN, HostModel, HostModule, channels_last, load_error
from generation.engine.planner import FLOAT8_PART
from generation.engine.prepacking import prepack
from generation.engine.quantized import BITSANDBYTES, TORCHAO, layers_fill, torchao_join


def host_build(
    host: HostModel, device: torch.device, *, left_on_host: Collection[str] = (), packs: bool = True
) -> Iterator[Any]:
    """Builds the pipeline a piece at a time, so that a running one waits only for a piece; the last item is it.

    The parts of these names stay in host memory. `packs` orders small weights for a CPU's kernels. To be driven by the
    pipeline thread alone. Raises EngineModelBroken.
    """
    modules: dict[str, Any] = {}
    for name, part in host.modules.items():
        try:
            place = torch.device("cpu") if name in left_on_host else device
            if part.built is not None:
                modules[name], part.built = _brought(part.built, place), None
                yield None
                continue
            modules[name] = _module_build(part, host.dtype, place)
            if host.float8 and name == FLOAT8_PART:
                float8_store(modules[name], host.dtype)
            elif (
                packs
                and not part.quantized
                and name not in left_on_host
                and device.type == "cpu"  # also where the card's host is quick at it
                and quick_bfloat16()
                and channels_last(host.dtype)
            ):
                prepack(modules[name])
                part.origins = []  # it has other layers now
        except torch.OutOfMemoryError:
            raise
        except BROKEN as error:
            raise load_error(error, host.model, f"{name} of {host.model.id} cannot be built") from error
        _signatures_keep(modules[name])
        yield None
    try:
        pipeline = host.pipeline_type(**{**host.parts, **modules, **host.options})
    except BROKEN as error:
        raise EngineModelBroken(f"{host.model.id} is not a whole pipeline: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    # The engine looks at pictures once they are drawn; the pipeline would black out what it finds, and tell nobody.
    pipeline.picture_checker = getattr(pipeline, "safety_checker", None)
    if pipeline.picture_checker is not None:
        pipeline.safety_checker = None
    yield pipeline


def _module_build(part: HostModule, dtype: torch.dtype, device: torch.device) -> Any:
    # A step's callback runs in inference mode; modules made in it could never take an adapter.
    with torch.inference_mode(mode=False):
        tensors, config = dict(part.tensors), part.config
        if part.quantized == TORCHAO:
            tensors, config = torchao_join(tensors, part.metadata), _without_quantization(config)
        if issubclass(part.type, diffusers.ModelMixin):
            with init_empty_weights(include_buffers=False):
                module = part.type.from_config(config)
            # the names of attention weights in older files
            module._fix_state_dict_keys_on_load(tensors)  # noqa: SLF001 - as its loader does
            if part.quantized == BITSANDBYTES:
                missing = layers_fill(module, config, tensors, device)
            else:
                missing = module.load_state_dict(tensors, strict=False, assign=True).missing_keys
        else:
            # bitsandbytes' layers are made where they stay.
            place = {"device_map": {"": device}} if part.quantized == BITSANDBYTES else {}
            module, found = part.type.from_pretrained(
                None, config=config, state_dict=tensors, dtype=dtype, output_loading_info=True, **place
            )
            missing = found["missing_keys"]
        if missing:
            raise EngineModelBroken(f"The weights lack {len(missing)} tensors, such as {min(missing)}.")
        module = module.requires_grad_(requires_grad=False).eval()
        part.origins = _origins(module, tensors.values())
        return _brought(module, device)


def _brought(module: Any, device: torch.device) -> Any:
    # Libraries' own `to` may refuse what is quantized, whose weights know how.
    with torch.inference_mode(mode=False):
        return torch.nn.Module.to(module, device, non_blocking=True)


def _origins(
    module: Any, tensors: Collection[torch.Tensor]
) -> list[tuple[dict[str, Any], str, torch.Tensor]]:
    """Where a module has which tensors, while they are those of the host; none where it has copies of them."""
    held = {tensor.data_ptr() for tensor in tensors}
    if any(parameter.data_ptr() not in held for parameter in module.parameters()):
        return []
    return [
        (places, name, tensor.data)
        for each in module.modules()
        for places in (each._parameters, each._buffers)  # noqa: SLF001 - as torch's own `to` finds them
        for name, tensor in places.items()
        if tensor is not None
    ]


def modules_keep(host: HostModel, pipeline: Any) -> None:
    """Keeps a pipeline's modules, as they were built, with their tensors in host memory: they leave the device.

    To build them anew takes longer than to bring their tensors back.
    """
    for name, part in host.modules.items():
        for places, key, tensor in part.origins:
            places[key].data = tensor
        part.built = getattr(pipeline, name, None) if part.origins else None


def _signatures_keep(module: Any) -> None:
    """Has Python keep what a denoiser's attention takes: diffusers asks for it anew at each of them and each step."""
    for processor in getattr(module, "attn_processors", {}).values():
        call: Any = type(processor).__call__
        call.__signature__ = inspect.signature(call)


def _without_quantization(config: Any) -> Any:
    """The same configuration of a part whose weights are whole already."""
    if isinstance(config, Mapping):
        return {name: value for name, value in config.items() if name != "quantization_config"}
    config = copy.copy(config)
    del config.quantization_config
    return config
