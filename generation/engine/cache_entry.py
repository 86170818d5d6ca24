"""One model of the cache: what of it is where."""

import dataclasses
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from generation.engine.adapters import AdapterRack
from generation.engine.building import modules_keep
from generation.engine.compiling import eager
from generation.engine.loader import HostModel
from generation.engine.planner import Plan
from generation.engine.residency import Residency, in_turns
from generation.engine.specs import ModelRef
from generation.engine.stages import Embeddings


@dataclass
class CacheEntry:
    """One model and how far it is: reading, then `host`, then a build in progress, then `pipeline`."""

    model: ModelRef
    used: int
    reading: Future[HostModel] | None = None
    host: HostModel | None = None
    build: Iterator[Any] | None = None
    pipeline: Any = None
    scheduler: Any = None
    rack: AdapterRack | None = None
    colours: Any = None
    kinds: dict[str, Any] = field(default_factory=dict)
    pins: int = 0
    bytes: int = 0
    weights_sha256: str = ""
    dtype: str = ""
    vae_dtype: Any = None
    quantized: dict[str, str] = field(default_factory=dict)
    broken: bool = False
    compiles: bool = False
    plan: Plan | None = None
    residency: Residency | None = None
    embeddings: Embeddings = field(default_factory=Embeddings)
    waiters: list[Future[None]] = field(default_factory=list)
    # When it was wanted on the device, and from where it comes; None while nobody does or it is there.
    wanted: tuple[float, str] | None = None
    load_s: float = 0.0

    def want(self) -> None:
        """Notes the first wish for it on the device."""
        if self.pipeline is None and self.wanted is None:
            self.wanted = time.monotonic(), "disk" if self.host is None else "memory"

    def take(self, host: HostModel) -> None:
        """Holds what was read into host memory."""
        self.host, self.bytes = host, host.bytes
        self.weights_sha256 = host.weights_sha256
        self.dtype = str(host.dtype).removeprefix("torch.")
        self.vae_dtype = host.vae_dtype
        self.quantized = host.quantized
        self.scheduler = host.parts["scheduler"]

    def serves(self, model: ModelRef) -> bool:
        """Whether it is made of these files, in the number format that is asked for."""
        formats = {self.model.dtype, self.stored_dtype or self.dtype}
        return self.model == dataclasses.replace(model, dtype=self.model.dtype) and model.dtype in formats

    def graphs(self, *, wanted: bool) -> AbstractContextManager[None]:
        """Runs none of its blocks' graphs in the block where they are not wanted."""
        return eager() if self.compiles and not wanted else nullcontext()

    @property
    def stored_dtype(self) -> str | None:
        """In which the denoiser's weights lie in memory, where that is not the one that they run in."""
        return "float8" if self.plan and self.plan.float8 else None

    @property
    def hooked(self) -> bool:
        """Whether its weights come, go or change their format while it draws."""
        return bool(self.residency or self.stored_dtype or self.quantized)

    @property
    def left_on_host(self) -> list[str]:
        """The parts that are on the device in turns."""
        return in_turns(self.host.modules) if self.plan and self.plan.in_turns and self.host else []

    @property
    def device_bytes(self) -> int:
        """Bytes of its weights that are on the device at the most."""
        return self.plan.device_bytes if self.residency and self.plan else self.bytes

    @property
    def held_bytes(self) -> int:
        """Bytes that are on the device now."""
        if self.pipeline is None:
            return 0
        weights = self.bytes if self.residency is None else self.bytes - self.residency.away_bytes
        return weights + self.embeddings.bytes + (self.rack.bytes if self.rack else 0)

    def take_off(self) -> None:
        """Lets go of what is on the device."""
        changed = self.rack is None or self.rack.changes or self.compiles or self.hooked or self.broken
        if self.pipeline is not None and self.host is not None and not changed:
            modules_keep(self.host, self.pipeline)
        self.pipeline = self.build = self.rack = self.residency = None
        self.kinds = {}
        self.embeddings = Embeddings()

    @property
    def tier(self) -> str:
        """Where it is, in the words of `CachedModel`."""
        if self.pipeline is not None:
            return "resident"
        return "loading" if self.reading is not None or self.build is not None or self.waiters else "warm"
