"""Three tiers of models: resident on the device, warm in host memory, cold on disk.

A thread of its own reads files into host memory; the pipeline thread builds pipelines, a piece at a time, and lets go
of them. Least recently used models leave a tier when its budget of bytes is exceeded; a model in use never does.
Weights are never copied back from a GPU: what leaves it is still warm, or is read again.
"""

import contextlib
import ctypes
import dataclasses
import gc
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from generation.engine.adapters import AdapterRack, AroundAttach
from generation.engine.building import host_build
from generation.engine.cache_entry import CacheEntry
from generation.engine.compiling import blocks_mark
from generation.engine.errors import EngineError, EngineModelUnavailable, EngineOutOfMemory
from generation.engine.loader import FolderCheck, HostModel, host_read
from generation.engine.memory import memory_look
from generation.engine.planner import NEEDS_LIBRARY, TOO_LARGE, Memory, Plan, Weights, plan_make
from generation.engine.residency import Residency
from generation.engine.sizes import UNREADABLE, weights_look
from generation.engine.specs import CachedModel, ModelRef

WAIT_TICK_S = 0.1


class ModelCache:
    """The models of one device. `resident_bytes` and `warm_bytes` are the budgets of the two tiers, `adapter_bytes`
    that of the adapters attached to one model.

    Only `request`, `load_beside` and `models` may be called from other threads than the pipeline thread.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        resident_bytes: int,
        warm_bytes: int,
        adapter_bytes: int = 0,
        with_checker: bool = False,
    ) -> None:
        self.device = device
        self.resident_bytes = resident_bytes
        self.warm_bytes = warm_bytes
        self.adapter_bytes = adapter_bytes
        self.with_checker = with_checker
        # Whether blocks of models that are on the device as a whole look for graphs.
        self.compiles = False
        # What there is for models, whoever has it now.
        self.memory: Callable[[], Memory] = lambda: memory_look(device)
        # Called in the pipeline thread where a model needs room: lets go of what is soon made anew.
        self.on_room: Callable[[], object] = lambda: None
        # Called by the reading thread when a model that somebody waits for can be built.
        self.on_readable: Callable[[], None] = lambda: None
        # Called in the pipeline thread with a model's id, where it came from and in how many seconds.
        self.on_resident: Callable[[str, str, float], None] = lambda model_id, source, seconds: None
        # Called in any thread with a folder that is about to be read.
        self.folder_check: FolderCheck = lambda folder: None
        # Says what has to be installed before a folder's weights can be read; "" where nothing is missing.
        self.lacks: Callable[[Path], str] = lambda folder: ""
        # Entered in the pipeline thread around the attaching of one adapter's file.
        self.around_attach: AroundAttach = lambda use: contextlib.nullcontext()
        self._entries: dict[str, CacheEntry] = {}
        self._weights: dict[ModelRef, Weights] = {}
        self._clock = itertools.count(1)
        self._lock = threading.RLock()
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="weights-reader")

    def models(self) -> list[CachedModel]:
        """What is in the cache, most recently used first."""
        with self._lock:
            entries = sorted(self._entries.values(), key=lambda entry: -entry.used)
            return [
                CachedModel(
                    entry.model.id,
                    entry.tier,
                    entry.bytes + (entry.rack.bytes if entry.rack else 0),
                    entry.rack.held if entry.rack else [],
                    entry.dtype,
                    round(entry.load_s, 1),
                )
                for entry in entries
            ]

    def held_bytes(self) -> int:
        """Bytes of weights on the device."""
        with self._lock:
            return sum(entry.held_bytes for entry in self._entries.values())

    def plan(self, model: ModelRef) -> Plan | None:
        """How a model fits into what memory there is; None where its files do not say. May be called in any thread."""
        with contextlib.suppress(*UNREADABLE):  # what is wrong with the files, their reading says
            if model not in self._weights:
                weights = weights_look(model, self.device)
                self._weights[model] = dataclasses.replace(weights, lacks=self.lacks(model.folder))
            return plan_make(self._weights[model], self.memory(), dtype=model.dtype)
        return None

    def request(self, model: ModelRef) -> CacheEntry:
        """Starts reading a model unless it is there; returns at once."""
        with self._lock:
            entry = self._entries.get(model.id)
            if entry is not None and not entry.serves(model) and not entry.pins:
                self._drop(entry)  # the row now names other files
                entry = None
            if entry is None:
                entry = self._entries[model.id] = CacheEntry(model, next(self._clock))
            entry.used = next(self._clock)
            if entry.pipeline is None and entry.host is None and entry.reading is None:
                entry.reading = self._reader.submit(self._read, entry)
            return entry

    def _host_read(self, entry: CacheEntry) -> HostModel:
        plan = entry.plan = self.plan(entry.model)
        if plan and plan.verdict == TOO_LARGE:
            raise EngineOutOfMemory(f"{entry.model.id} does not fit. {plan.reason}")
        if plan and plan.verdict == NEEDS_LIBRARY:
            raise EngineModelUnavailable(f"{entry.model.id} cannot be loaded. {plan.reason}")
        return host_read(
            entry.model,
            self.device,
            with_checker=self.with_checker,
            float8=bool(plan and plan.float8),
            folder_check=self.folder_check,
        )

    def _read(self, entry: CacheEntry) -> HostModel:
        try:
            host = self._host_read(entry)
        except EngineError as error:
            self._fail(entry, error)
            raise
        except Exception as error:
            failure = EngineModelUnavailable(f"{entry.model.id} could not be read: {type(error).__name__}")
            self._fail(entry, failure)
            raise failure from error
        with self._lock:
            entry.reading = None
            entry.take(host)
            wanted = bool(entry.waiters)
            self._shrink_warm(keep=entry)
        if wanted:
            self.on_readable()
        return host

    def _fail(self, entry: CacheEntry, error: EngineError) -> None:
        with self._lock:
            if self._entries.get(entry.model.id) is entry:
                del self._entries[entry.model.id]
            entry.reading = entry.host = entry.build = None
            waiters, entry.waiters = entry.waiters, []
        for waiter in waiters:
            waiter.set_exception(error)

    def load_beside(self, model: ModelRef) -> Future[None]:
        """Makes a model resident without stopping what runs; the future ends when it is, or with an EngineError."""
        waiter: Future[None] = Future()
        with self._lock:
            entry = self.request(model)
            if entry.pipeline is not None:
                waiter.set_result(None)
                return waiter
            entry.want()
            entry.waiters.append(waiter)
            readable = entry.host is not None
        if readable:
            self.on_readable()
        return waiter

    # The pipeline thread

    @contextlib.contextmanager
    def borrow(self, model: ModelRef, *, while_waiting: Callable[[], None]) -> Iterator[CacheEntry]:
        """The model, resident and safe from eviction until the block ends; one marked `broken` in it is dropped then.

        `while_waiting` is called again and again while files are read; what it raises ends the wait. Raises
        EngineModelUnavailable, EngineOutOfMemory.
        """
        entry = self.request(model)
        entry.want()
        entry.pins += 1
        try:
            reading = entry.reading
            while reading is not None and not reading.done():
                while_waiting()
                with contextlib.suppress(TimeoutError):
                    reading.exception(timeout=WAIT_TICK_S)
            if reading is not None:
                reading.result()
            while not self._advance(entry):
                pass
            yield entry
        finally:
            entry.pins -= 1
            torn = entry.rack is not None and entry.rack.torn
            if (entry.broken or torn) and not entry.pins:
                self._drop(entry)
                memory_release(self.device)

    def advance(self) -> bool:
        """Builds one piece of a model that is waited for and fits beside what runs; False when there is nothing."""
        with self._lock:
            waiting = [
                entry
                for entry in self._entries.values()
                if entry.waiters and entry.host is not None and entry.pipeline is None
            ]
            entry = next((entry for entry in waiting if self._fits(entry)), None)
        if entry is None:
            return False
        with contextlib.suppress(EngineError):  # its waiters hear of it
            self._advance(entry)
        return True

    def _advance(self, entry: CacheEntry) -> bool:
        """Builds one piece; True when the model is resident."""
        if entry.pipeline is not None:
            return True
        try:
            if entry.build is None:
                self.on_room()
                self._make_room(entry)
                host = entry.host or self._host_read(entry)  # it may have had to give way while it was warm
                entry.take(host)
                entry.build = host_build(
                    host,
                    self.device,
                    left_on_host=entry.left_on_host,
                    packs=not self.compiles,  # a compiler orders weights by itself, and cannot read packed ones
                )
            pipeline = next(entry.build)
        except torch.OutOfMemoryError as error:
            failure: EngineError = EngineOutOfMemory(
                f"{entry.model.id} does not fit into the device's memory."
            )
            self._fail(entry, failure)
            memory_release(self.device)
            raise failure from error
        except EngineError as error:
            self._fail(entry, error)
            raise
        if pipeline is None:
            return False
        with self._lock:
            entry.pipeline, entry.build = pipeline, None
            wanted, entry.wanted = entry.wanted, None
            if wanted:
                entry.load_s = time.monotonic() - wanted[0]
            self._surround(entry)
            waiters, entry.waiters = entry.waiters, []
            self._shrink_warm(keep=None)
        for waiter in waiters:
            waiter.set_result(None)
        if wanted:
            self.on_resident(entry.model.id, wanted[1], entry.load_s)
        return True

    def _surround(self, entry: CacheEntry) -> None:
        """Gives a pipeline that has come to the device what goes with it."""
        entry.rack = AdapterRack(
            entry.pipeline, budget_bytes=self.adapter_bytes, around_attach=self.around_attach
        )
        if entry.plan and entry.left_on_host:
            entry.residency = Residency(entry.pipeline, self.device, plan=entry.plan)
        if self.compiles and not entry.hooked:
            entry.compiles = blocks_mark(entry.pipeline)

    def _fits(self, entry: CacheEntry) -> bool:
        """Whether it fits beside the models in use; what is not in use gives way."""
        pinned = sum(
            other.device_bytes
            for other in self._entries.values()
            if other.pins and other.pipeline is not None
        )
        return not pinned or pinned + entry.device_bytes <= self.resident_bytes

    def _make_room(self, entry: CacheEntry) -> None:
        """Lets least recently used models go until this one is within the budget."""
        with self._lock:
            idle = sorted(
                (other for other in self._entries.values() if other.pipeline is not None and not other.pins),
                key=lambda other: other.used,
            )
            adapters = sum(other.rack.bytes for other in self._entries.values() if other.rack)
            there = (other.device_bytes for other in self._entries.values() if other.pipeline is not None)
            excess = sum(there) + adapters + entry.device_bytes - self.resident_bytes
            gone = False
            for other in idle:
                if excess <= 0:
                    break
                excess -= other.device_bytes
                self._demote(other)
                gone = True
        if gone:
            memory_release(self.device)

    def _demote(self, entry: CacheEntry) -> None:
        """From the device to host memory, or out of the cache where it is not there any more."""
        entry.take_off()
        if entry.host is None:
            self._entries.pop(entry.model.id, None)
        else:
            self._shrink_warm(keep=None)

    def _shrink_warm(self, *, keep: CacheEntry | None) -> None:
        """Drops host copies, least recently used first, until they are within their budget.

        What is on its way to the device does not count, nor what is there in turns, since it is needed again. On a CPU
        a resident model and its host copy are the same memory, which counts as resident.
        """
        shared = self.device.type == "cpu"
        held = [
            entry
            for entry in self._entries.values()
            if entry.host is not None
            and not (entry.waiters or entry.pins or entry.build is not None)
            and not ((shared or entry.residency) and entry.pipeline is not None)
        ]
        excess = sum(entry.bytes for entry in held) - self.warm_bytes
        for entry in sorted(held, key=lambda entry: entry.used):
            if excess <= 0:
                return
            if entry is keep:
                continue
            excess -= entry.bytes
            entry.host = None
            if entry.pipeline is None:
                self._entries.pop(entry.model.id, None)

    def _drop(self, entry: CacheEntry) -> None:
        if self._entries.get(entry.model.id) is entry:
            del self._entries[entry.model.id]
        entry.take_off()
        entry.host = None
        waiters, entry.waiters = entry.waiters, []
        for waiter in waiters:
            waiter.set_exception(EngineModelUnavailable(f"{entry.model.id} was unloaded meanwhile."))

    def drop(self, model_id: str) -> bool:
        """Takes a model out of all tiers; False when it was in none or is in use."""
        with self._lock:
            entry = self._entries.get(model_id)
            if entry is None or entry.pins:
                return False
            self._drop(entry)
        memory_release(self.device)
        return True

    def drop_all(self) -> list[str]:
        """Takes every model out of all tiers that is neither in use nor on its way; returns their ids."""
        with self._lock:
            gone = [
                entry
                for entry in self._entries.values()
                if not entry.pins and entry.tier in ("resident", "warm")
            ]
            for entry in gone:
                self._drop(entry)
        if gone:
            memory_release(self.device)
        return [entry.model.id for entry in gone]

    def detach(self, sha256: str) -> None:
        """Takes an adapter off every model that it is attached to."""
        for entry in list(self._entries.values()):
            if entry.rack is not None:
                entry.rack.detach(sha256)

    def drop_idle(self) -> None:
        """Frees the device of everything that is not in use."""
        self.on_room()
        with self._lock:
            for entry in list(self._entries.values()):
                if entry.pipeline is not None and not entry.pins:
                    self._demote(entry)
        memory_release(self.device)

    def close(self) -> None:
        """Ends the reading thread."""
        self._reader.shutdown(wait=False, cancel_futures=True)


def memory_release(device: torch.device) -> None:
    """Gives memory that nothing uses back to the device, or to the system where the device is the CPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        if hasattr(torch.accelerator, "empty_host_cache"):  # torch 2.11 has none
            torch.accelerator.empty_host_cache()  # what was pinned, which the line above leaves
    if sys.platform == "linux":
        # The C library keeps freed pieces; a worker that swaps models would look as if it leaked.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
