"""Parts of a model that are on the device in turns: what a stage needs comes from the host, what it does not need goes.

Host copies never change, so going costs nothing: a parameter points at its host copy again. Where a part has no room
as a whole, those of its blocks that have none come when they are called, and go after it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from generation.engine.acceleration import is_left_out
from generation.engine.blocks import blocks_of
from generation.engine.planner import DENOISERS, ENCODERS, Plan
from generation.engine.quantized import Held, bytes_of, is_quantized


class _Weights:
    """Weights that come and go together, as they were read into host memory: a module's but for those of others."""

    def __init__(self, module: Any, *, without: Iterable["_Weights"] = ()) -> None:
        self.module = module
        self.is_here = False
        others = {known for each in without for known in each.known}
        own = {
            id(tensor): (layer, tensor)
            for layer in module.modules()
            for tensor in layer.parameters(recurse=False)
            if id(tensor) not in others
        }
        self._host = [(tensor, tensor.data) for _, tensor in own.values() if not is_quantized(tensor)]
        self._quantized = [Held(layer, tensor) for layer, tensor in own.values() if is_quantized(tensor)]
        self.known: set[int] = own.keys() | others
        self.bytes: int = sum(bytes_of(tensor) for _, tensor in own.values())

    def bring(self, device: torch.device) -> None:
        """To the device, where they are copies; nothing of them stays there where memory does not suffice."""
        try:
            with torch.inference_mode(mode=False):
                for tensor, data in self._host:
                    tensor.data = data.to(device, non_blocking=True, copy=True)
                for held in self._quantized:
                    held.put([each.to(device, non_blocking=True, copy=True) for each in held.tensors])
                for tensor in self.module.parameters():  # of adapters, which came later
                    if id(tensor) not in self.known:
                        tensor.data = tensor.data.to(device)
                for inner in self.module.modules():  # these are small, and stay
                    for name, buffer in inner.named_buffers(recurse=False):
                        setattr(inner, name, buffer.to(device))
        except torch.OutOfMemoryError:
            self.drop()
            raise
        self.is_here = True

    def drop(self) -> None:
        """From the device."""
        with torch.inference_mode(mode=False):
            for tensor, data in self._host:
                tensor.data = data
            for held in self._quantized:
                held.put(held.tensors)
        self.is_here = False


class _Part:
    """One module of a pipeline, whole or as its blocks and what is in none of them."""

    def __init__(self, module: Any, device: torch.device, *, in_blocks: bool) -> None:
        self._device = device
        sizes = {name: bytes_of(tensor) for name, tensor in module.named_parameters()} if in_blocks else {}
        self._blocks = [_Weights(module.get_submodule(name)) for name in blocks_of(sizes)]
        self._outside = _Weights(module, without=self._blocks)
        self._largest = max((block.bytes for block in self._blocks), default=0)
        self.module = module
        self.bytes = self._outside.bytes + sum(block.bytes for block in self._blocks)
        self.least_bytes = self._outside.bytes + self._largest
        for block in self._blocks:
            self._let_pass(block)

    @property
    def is_here(self) -> bool:
        """Whether it can be called."""
        return self._outside.is_here

    @property
    def held_bytes(self) -> int:
        """Bytes of it on the device."""
        return sum(each.bytes for each in (self._outside, *self._blocks) if each.is_here)

    def bring(self, *, room: int) -> None:
        """To the device, as much of it as there is room for: all, or its first blocks beside one that passes."""
        self._outside.bring(self._device)
        whole = self.bytes <= room
        room -= self._outside.bytes + (0 if whole else self._largest)
        for block in self._blocks:
            room -= block.bytes
            if room < 0:
                break
            block.bring(self._device)

    def drop(self) -> None:
        """From the device."""
        for each in (self._outside, *self._blocks):
            if each.is_here:
                each.drop()

    def _let_pass(self, block: _Weights) -> None:
        """Has a block that is not there come for the length of its call, unless the call leaves it out."""
        passing: list[bool] = []

        def come(*_: Any) -> None:
            passing.append(not block.is_here and not is_left_out(block.module))
            if passing[-1]:
                block.bring(self._device)

        def go(*_: Any) -> None:
            if passing.pop():
                block.drop()

        block.module.register_forward_pre_hook(come)
        block.module.register_forward_hook(go, always_call=True)


class Residency:
    """The text encoders and the denoiser of one pipeline, which are on the device as a plan says.

    For the pipeline thread alone. The modules come as they were read into host memory. The denoiser comes by itself
    when it is called.
    """

    def __init__(self, pipeline: Any, device: torch.device, *, plan: Plan) -> None:
        self._plan = plan
        self._parts: Mapping[str, _Part] = {
            name: _Part(getattr(pipeline, name), device, in_blocks=plan.in_blocks)
            for name in in_turns(pipeline)
        }
        # What stays: the decoder, and buffers.
        rest = plan.stages[-1]
        buffers = sum(each.nbytes for part in self._parts.values() for each in part.module.buffers())
        self._room = plan.room_bytes - rest - buffers
        for name in DENOISERS:
            if name in self._parts:
                self._parts[name].module.register_forward_pre_hook(lambda *_, name=name: self.need([name]))

    @property
    def held_bytes(self) -> int:
        """Bytes of its weights on the device."""
        return sum(part.held_bytes for part in self._parts.values())

    @property
    def away_bytes(self) -> int:
        """Bytes of its weights that are not there."""
        return sum(part.bytes for part in self._parts.values()) - self.held_bytes

    def need(self, names: Iterable[str], *, working: int | None = None) -> None:
        """Brings parts to the device, with so many bytes free beside them; others go where they are in the way."""
        wanted = [name for name in names if name in self._parts]
        coming = [self._parts[name] for name in wanted if not self._parts[name].is_here]
        room = self._room - (self._plan.working_bytes if working is None else working)
        bytes_coming = sum(part.bytes for part in coming)
        for name, part in self._parts.items():
            if self.held_bytes + bytes_coming <= room:
                break
            if part.is_here and name not in wanted:
                part.drop()
        for number, part in enumerate(coming):
            later = sum(each.least_bytes for each in coming[number + 1 :])
            part.bring(room=room - self.held_bytes - later)

    def need_encoders(self) -> None:
        """Brings all that reads prompts."""
        self.need(ENCODERS, working=self._plan.encoding_bytes)

    def clear(self) -> None:
        """Takes everything off the device."""
        for part in self._parts.values():
            part.drop()


def in_turns(parts: Any) -> list[str]:
    """The names of what comes and goes, of a pipeline or of a checkpoint's parts; encoders go first."""
    names = parts if isinstance(parts, Mapping) else vars(parts)
    return [name for name in (*ENCODERS, *DENOISERS) if names.get(name) is not None]
