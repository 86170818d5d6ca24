"""LoRA adapters on a pipeline: attached once, then switched on and off by name.

An attached adapter's weights stay with the pipeline until their bytes are needed, so a job that uses it again pays no
reload, and changing its scale costs nothing. Nothing is ever fused: repeated fusing and unfusing wears weights down.
"""

import contextlib
import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from generation.engine.errors import EngineAdapterUnusable
from generation.engine.specs import AdapterUse

_UNUSABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    IndexError,
    SafetensorError,
)


@dataclass
class _Attached:
    bytes: int
    used: int


class AdapterRack:
    """The adapters of one pipeline, by the SHA-256 of their files. For the pipeline thread alone.

    At most `budget_bytes` of weights stay attached beside those in use; the least recently used go first.
    """

    def __init__(self, pipeline: Any, *, budget_bytes: int) -> None:
        self.pipeline = pipeline
        self.budget_bytes = budget_bytes
        self._attached: dict[str, _Attached] = {}
        self._clock = itertools.count(1)

    @property
    def held(self) -> list[str]:
        """The SHA-256 of every attached adapter."""
        return list(self._attached)

    @property
    def bytes(self) -> int:
        """Bytes of all attached weights."""
        return sum(adapter.bytes for adapter in self._attached.values())

    @contextlib.contextmanager
    def applied(self, uses: Sequence[AdapterUse]) -> Iterator[None]:
        """Draws with these adapters for the length of the block, and with none of them after it.

        Raises EngineAdapterUnusable; the pipeline must be dropped then, since parts of the adapter may be attached.
        """
        if not uses:
            yield
            return
        try:
            for use in uses:
                self._attach(use)
            self._make_room(keep={use.sha256 for use in uses})
            names = [_name(use.sha256) for use in uses]
            self.pipeline.enable_lora()
            self.pipeline.set_adapters(names, adapter_weights=[use.scale for use in uses])
        except torch.OutOfMemoryError:
            raise
        except _UNUSABLE as error:
            listed = ", ".join(use.name for use in uses)
            raise EngineAdapterUnusable(f"{listed} cannot be put on this model: {error}") from error
        try:
            yield
        finally:
            self.pipeline.disable_lora()

    def detach(self, sha256: str) -> bool:
        """Lets an adapter's weights go; False when it was not attached."""
        if self._attached.pop(sha256, None) is None:
            return False
        with _as_meant():
            self.pipeline.delete_adapters(_name(sha256))
        return True

    def _attach(self, use: AdapterUse) -> None:
        if use.sha256 not in self._attached:
            tensors = load_file(use.path)
            # Beside a running step this would be in inference mode, and such weights could not be switched.
            with torch.inference_mode(mode=False), _as_meant():
                self.pipeline.load_lora_weights(tensors, adapter_name=_name(use.sha256))
            self._attached[use.sha256] = _Attached(sum(tensor.nbytes for tensor in tensors.values()), 0)
        self._attached[use.sha256].used = next(self._clock)

    def _make_room(self, *, keep: set[str]) -> None:
        idle = sorted(self._attached.keys() - keep, key=lambda sha256: self._attached[sha256].used)
        for sha256 in idle:
            if self.bytes <= self.budget_bytes:
                return
            self.detach(sha256)


@contextlib.contextmanager
def _as_meant() -> Iterator[None]:
    """Without peft's warnings of what is meant here: several adapters on one model, and one of them going."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        warnings.filterwarnings("ignore", message="Adapter .* was active which is now deleted")
        yield


def _name(sha256: str) -> str:
    """What peft calls it: stable, so that the same file is never attached twice."""
    return f"lora_{sha256[:32]}"
