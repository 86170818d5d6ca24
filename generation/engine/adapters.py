"""LoRA adapters on a pipeline: attached once, then switched on and off by name.

An attached adapter's weights stay with the pipeline until their bytes are needed, so a job that uses it again pays no
reload, and changing its scale costs nothing. Nothing is ever fused: repeated fusing and unfusing wears weights down.
"""

import contextlib
import itertools
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from generation.engine.adapter_shapes import adapter_check
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


# Whose functions an attaching that is to stop may be left from: neither holds a lock, or is in the middle of an import.
_LEFT_FROM: Final = ("peft.", "diffusers.")
ASK_EVERY_S = 0.05

# Entered around the attaching of one adapter's file.
AroundAttach = Callable[[AdapterUse], AbstractContextManager[None]]


def _never() -> None:
    """Stops nothing."""


@dataclass
class _Attached:
    bytes: int
    used: int


class AdapterRack:
    """The adapters of one pipeline, by the SHA-256 of their files. For the pipeline thread alone.

    At most `budget_bytes` of weights stay attached beside those in use; the least recently used go first. Once `torn`,
    parts of an adapter may be attached, and the pipeline must be dropped.
    """

    def __init__(
        self,
        pipeline: Any,
        *,
        budget_bytes: int,
        around_attach: AroundAttach = lambda use: contextlib.nullcontext(),
    ) -> None:
        self.pipeline = pipeline
        self.budget_bytes = budget_bytes
        self.around_attach = around_attach
        self.torn = False
        # How often weights were put on or taken off.
        self.changes = 0
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
    def applied(
        self, uses: Sequence[AdapterUse], *, stop_if_asked: Callable[[], None] = _never
    ) -> Iterator[None]:
        """Draws with these adapters for the length of the block, and with none of them after it.

        `stop_if_asked` is called again and again while one is attached; what it raises ends that. Raises
        EngineAdapterUnusable.
        """
        if not uses:
            yield
            return
        try:
            for use in uses:
                self._attach(use, stop_if_asked)
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
        self.changes += 1
        with _as_meant():
            self.pipeline.delete_adapters(_name(sha256))
        return True

    def _attach(self, use: AdapterUse, stop_if_asked: Callable[[], None]) -> None:
        if use.sha256 not in self._attached:
            stop_if_asked()
            tensors = load_file(use.path)
            with _interruptible(stop_if_asked):
                adapter_check(self.pipeline, tensors)
            self._load(use, tensors, stop_if_asked)
            self._attached[use.sha256] = _Attached(sum(tensor.nbytes for tensor in tensors.values()), 0)
        self._attached[use.sha256].used = next(self._clock)

    def _load(
        self, use: AdapterUse, tensors: dict[str, torch.Tensor], stop_if_asked: Callable[[], None]
    ) -> None:
        self.changes += 1
        try:
            # Beside a running step this would be in inference mode, and such weights could not be switched.
            with (
                self.around_attach(use),
                torch.inference_mode(mode=False),
                _as_meant(),
                _interruptible(stop_if_asked),
            ):
                self.pipeline.load_lora_weights(tensors, adapter_name=_name(use.sha256))
        except BaseException:
            self.torn = True
            raise

    def _make_room(self, *, keep: set[str]) -> None:
        idle = sorted(self._attached.keys() - keep, key=lambda sha256: self._attached[sha256].used)
        for sha256 in idle:
            if self.bytes <= self.budget_bytes:
                return
            self.detach(sha256)


@contextlib.contextmanager
def _interruptible(stop_if_asked: Callable[[], None]) -> Iterator[None]:
    """Calls `stop_if_asked` on the way through the libraries, which know of no deadline; what it raises gets through.

    By Python's profiler, which is this thread's alone and looks at each call of a function.
    """
    asked_at = time.monotonic()

    def look(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal asked_at
        if event != "call" or time.monotonic() - asked_at < ASK_EVERY_S:
            return
        if frame.f_globals.get("__name__", "").startswith(_LEFT_FROM):
            asked_at = time.monotonic()
            stop_if_asked()

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(before)


@contextlib.contextmanager
def _as_meant() -> Iterator[None]:
    """Without peft's warnings of what is meant here: several adapters on one model, one of them going, none fused."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        warnings.filterwarnings("ignore", message="Adapter .* was active which is now deleted")
        # Of weights that torchao quantized, on which an adapter cannot be fused.
        warnings.filterwarnings("ignore", message="TorchaoLoraLinear was instantiated without")
        yield


def _name(sha256: str) -> str:
    """What peft calls it: stable, so that the same file is never attached twice."""
    return f"lora_{sha256[:32]}"
