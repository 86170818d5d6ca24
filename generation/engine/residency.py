"""Parts of a model that are on the device in turns: what a stage needs comes from the host, what it does not need goes.

Host copies never change, so going costs nothing: a parameter points at its host copy again.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from generation.engine.planner import DENOISERS, ENCODERS, Plan


class _Part:
    """One module, as it was read into host memory."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.is_here = False
        self._host = [(tensor, tensor.data) for tensor in module.parameters()]
        self._known = {id(tensor) for tensor, _ in self._host}
        self.bytes: int = sum(data.nbytes for _, data in self._host)

    def bring(self, device: torch.device) -> None:
        """To the device, where it is a copy; nothing of it stays there where memory does not suffice."""
        try:
            with torch.inference_mode(mode=False):
                for tensor, data in self._host:
                    tensor.data = data.to(device, non_blocking=True, copy=True)
                for tensor in self.module.parameters():  # of adapters, which came later
                    if id(tensor) not in self._known:
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
        self.is_here = False


class Residency:
    """The text encoders and the denoiser of one pipeline, which are on the device as a plan says.

    For the pipeline thread alone. The modules come as they were read into host memory. The denoiser comes by itself
    when it is called.
    """

    def __init__(self, pipeline: Any, device: torch.device, *, plan: Plan) -> None:
        self._device = device
        self._plan = plan
        self._parts: Mapping[str, _Part] = {
            name: _Part(getattr(pipeline, name)) for name in in_turns(pipeline)
        }
        # What stays: the decoder, and buffers.
        buffers = sum(each.nbytes for part in self._parts.values() for each in part.module.buffers())
        self._room = plan.room_bytes - plan.stages[-1] - buffers
        for name in DENOISERS:
            if name in self._parts:
                self._parts[name].module.register_forward_pre_hook(lambda *_, name=name: self.need([name]))

    @property
    def held_bytes(self) -> int:
        """Bytes of its weights on the device."""
        return sum(part.bytes for part in self._parts.values() if part.is_here)

    @property
    def away_bytes(self) -> int:
        """Bytes of its weights that are not there."""
        return sum(part.bytes for part in self._parts.values()) - self.held_bytes

    def need(self, names: Iterable[str], *, working: int | None = None) -> None:
        """Brings parts to the device, with so many bytes free beside them; others go where they are in the way."""
        wanted = [name for name in names if name in self._parts]
        coming = sum(self._parts[name].bytes for name in wanted if not self._parts[name].is_here)
        room = self._room - (self._plan.working_bytes if working is None else working)
        for name, part in self._parts.items():
            if self.held_bytes + coming <= room:
                break
            if part.is_here and name not in wanted:
                part.drop()
        for name in wanted:
            if not self._parts[name].is_here:
                self._parts[name].bring(self._device)

    def need_encoders(self) -> None:
        """Brings all that reads prompts."""
        self.need(ENCODERS, working=self._plan.encoding_bytes)

    def clear(self) -> None:
        """Takes everything off the device."""
        for part in self._parts.values():
            if part.is_here:
                part.drop()


def in_turns(parts: Any) -> list[str]:
    """The names of what comes and goes, of a pipeline or of a checkpoint's parts; encoders go first."""
    names = parts if isinstance(parts, Mapping) else vars(parts)
    return [name for name in (*ENCODERS, *DENOISERS) if names.get(name) is not None]
