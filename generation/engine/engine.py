"""The engine: keeps models warm and draws batches with them. Knows neither Django nor RQ.

    from generation.engine import Batch, Engine, ModelRef
    engine = Engine()
    result = engine.run(Batch(model=ModelRef(...), prompt="a red circle", ...))

One thread, the pipeline thread, calls everything but `load_beside`, `prefetch`, `host_share`, `plan`, `models` and
`resident`.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, cast

import torch

from generation.engine import memory
from generation.engine.adapters import AdapterRack
from generation.engine.cache import ModelCache
from generation.engine.cache_entry import CacheEntry
from generation.engine.capacity import Capacity
from generation.engine.compiling import Graphs, compiler_hold, compiling
from generation.engine.cuda_graphs import CudaGraphs
from generation.engine.drawing import Drawing, Drawn, Listeners, ignore, never_stop, stopper
from generation.engine.joining import Call, call_plainly
from generation.engine.lanes import Lanes
from generation.engine.loader import device_of_choice
from generation.engine.planner import Plan
from generation.engine.rows import Row, Rows, denoiser_name
from generation.engine.safety import SafetyFilter, SafetySettings
from generation.engine.specs import (
    AdapterUse,
    Batch,
    BatchResult,
    CachedModel,
    ModelRef,
    OnPreview,
    OnStep,
    OnWarning,
    ShouldStop,
)


class Engine:
    """One device and the models on it. Budgets are in MiB, 0 for automatic ones.

    With `compiles`, `compile` has graphs made of models' blocks; at all other times they are run and none is made. With
    `records`, a card plays steps that it has run before.
    """

    def __init__(
        self,
        *,
        threads: int = 0,
        resident_mb: int = 0,
        warm_mb: int = 0,
        adapters_mb: int = 1024,
        safety: SafetySettings | None = None,
        compiles: bool = False,
        records: bool = True,
    ) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.device = device_of_choice()
        self.safety = SafetyFilter(safety or SafetySettings(), self.device)
        resident_bytes, warm_bytes = memory.budgets_bytes(
            self.device, resident_mb=resident_mb, warm_mb=warm_mb
        )
        self.cache = ModelCache(
            self.device,
            resident_bytes=resident_bytes,
            warm_bytes=warm_bytes,
            adapter_bytes=adapters_mb * memory.MIB,
            with_checker=self.safety.is_on and self.safety.settings.classifier is None,
        )
        self.cache.compiles = compiles
        if compiles:
            compiler_hold()
        self.recorded = CudaGraphs(self.device) if records and self.device.type == "cuda" else None
        if self.recorded:
            self.cache.on_room = self.recorded.drop
        self._lanes: Lanes | None = None
        self._budgets_mb = {"resident_mb": resident_mb, "warm_mb": warm_mb}
        self._canary = memory.LeakCanary(self.device)
        # What was learned, by model, number format, pixels and acceleration.
        self._capacities: dict[tuple[str, str, int, str], Capacity] = {}

    @property
    def resident(self) -> list[str]:
        """Ids of the checkpoints that are ready to run, most recently used first."""
        return [model.id for model in self.models() if model.tier == "resident"]

    @property
    def warm(self) -> list[str]:
        """The models that are read, or being read, and not on the device."""
        return [model.id for model in self.models() if model.tier != "resident"]

    def models(self) -> list[CachedModel]:
        """What the cache holds, most recently used first."""
        return self.cache.models()

    def load_beside(self, model: ModelRef) -> Future[None]:
        """Makes a checkpoint resident beside whatever runs; the future ends when it is, or with an EngineError.

        Needs the pipeline thread's help: a running batch gives it between steps, `build_waiting` at other times.
        """
        return self.cache.load_beside(model)

    def prefetch(self, model: ModelRef) -> None:
        """Starts reading a checkpoint into host memory, for a batch that comes soon."""
        self.cache.request(model)

    def host_share(self, *, workers: int) -> None:
        """Takes its part of the host's memory, and no more, beside others: so many in all."""
        _, self.cache.warm_bytes = memory.budgets_bytes(self.device, workers=workers, **self._budgets_mb)
        self.cache.memory = partial(memory.memory_look, self.device, workers=workers)

    def plan(self, model: ModelRef) -> Plan | None:
        """How a checkpoint fits into the device's memory; None where its files do not say."""
        return self.cache.plan(model)

    def build_waiting(self) -> None:
        """Finishes what `load_beside` was asked for and has been read."""
        while self.cache.advance():
            pass

    def load(self, model: ModelRef, *, should_stop: ShouldStop = never_stop) -> None:
        """Makes a checkpoint resident; at once when it already is. Raises EngineModelUnavailable, EngineOutOfMemory."""
        with self.cache.borrow(model, while_waiting=stopper(should_stop)):
            pass

    def compile(self, batch: Batch) -> int:
        """Has graphs made of a model's blocks by drawing two steps of a batch; how many are new.

        Once for one picture, for several, and without guidance. What fails here fails no request: `compile_problem` is
        why there is none. Raises EngineModelUnavailable, EngineOutOfMemory.
        """
        made, Graphs.problem = Graphs.made, ""
        one = dataclasses.replace(batch, num_inference_steps=2)
        several, unguided = (
            dataclasses.replace(one, **each) for each in ({"num_images": 2}, {"guidance_scale": 1.0})
        )
        recorded, self.recorded = self.recorded, None  # of steps in which a compiler is at work
        try:
            with compiling():
                for each in (one, several, unguided):
                    with self.drawing(each) as sheet:
                        sheet.add(each, Listeners())
                        while not list(sheet.step()):
                            pass
        finally:
            self.recorded = recorded
        return Graphs.made - made

    @property
    def compile_problem(self) -> str:
        """Why `compile` made no graph the last time, where it made none."""
        return Graphs.problem or "No block of the model, as it lies in memory, could be compiled."

    def unload(self, model_id: str) -> bool:
        """Frees device and host memory of a checkpoint; False when it was not there."""
        return self.cache.drop(model_id)

    def unload_idle(self) -> list[str]:
        """Frees all that nothing uses, the safety filter's classifier too; returns the checkpoints that went."""
        self.safety.unload()
        return self.cache.drop_all()

    def attach(self, model: ModelRef, use: AdapterUse, *, should_stop: ShouldStop = never_stop) -> None:
        """Puts an adapter on a model before a batch needs it.

        Raises EngineStopped, EngineAdapterUnusable, EngineModelUnavailable.
        """
        stop_if_asked = stopper(should_stop)
        with (
            self.cache.borrow(model, while_waiting=stop_if_asked) as entry,
            cast(AdapterRack, entry.rack).applied([use], stop_if_asked=stop_if_asked),
        ):
            pass

    def detach(self, sha256: str) -> None:
        """Takes an adapter off every model that it is attached to."""
        self.cache.detach(sha256)

    def leaks(self) -> memory.CanaryReport:
        """What is allocated beyond the cache, compared with the first look."""
        recorded = self.recorded.bytes if self.recorded else 0
        return self._canary.look(self.cache.held_bytes() + recorded)

    def close(self) -> None:
        """Ends the engine's threads."""
        self.cache.close()
        if self._lanes:
            self._lanes.close()

    @contextlib.contextmanager
    def drawing(self, batch: Batch, *, should_stop: ShouldStop = never_stop) -> Iterator["Sheet"]:
        """The sheet on which a batch and others of its model and adapters are drawn together; loads the model first.

        Raises EngineStopped, EngineModelUnavailable, EngineAdapterUnusable or EngineOutOfMemory. A model that is
        `broken` afterwards is dropped.
        """
        stop_if_asked = stopper(should_stop)
        with self.cache.borrow(batch.model, while_waiting=stop_if_asked) as entry:
            memory.peak_reset(self.device)
            stop_if_asked()
            rack = cast(AdapterRack, entry.rack)
            # Neither kind of graph sees the hooks of an acceleration.
            in_graphs = not (batch.reproducible or batch.acceleration != "none")
            with entry.graphs(wanted=in_graphs), rack.applied(batch.adapters, stop_if_asked=stop_if_asked):
                width, height = batch.drawn_size or (batch.width, batch.height)
                key = (batch.model.id, entry.dtype, width * height, batch.acceleration)
                rows = Rows(
                    self.device,
                    self._capacities.setdefault(key, Capacity()),
                    between_steps=self.cache.advance,
                    run=self._run_by(entry, batch) if in_graphs else call_plainly,
                    lanes=self._lanes_for(entry),
                )
                try:
                    yield Sheet(self, entry, rows, batch)
                finally:
                    rows.close()

    def _run_by(self, entry: CacheEntry, batch: Batch) -> Callable[[Any, Call], Any]:
        """How a model's denoiser is called: what has hooks, which change its answer from call to call, plainly."""
        if self.recorded is None or entry.hooked:
            return call_plainly
        rack = cast(AdapterRack, entry.rack)
        return partial(self.recorded.run, beside=(rack.changes, tuple(batch.adapters)))

    def _lanes_for(self, entry: CacheEntry) -> Lanes | None:
        """The lanes of a CPU, for what two threads may run at once: no hooks that change weights, and no compiler's."""
        threads = torch.get_num_threads()
        if self.device.type != "cpu" or threads < Lanes.COUNT or entry.hooked or entry.compiles:
            return None
        self._lanes = self._lanes or Lanes()
        return self._lanes

    def run(
        self,
        batch: Batch,
        *,
        on_drawing: Callable[[], None] = ignore,
        on_step: OnStep = ignore,
        on_preview: OnPreview = ignore,
        on_warning: OnWarning = ignore,
        should_stop: ShouldStop = never_stop,
    ) -> BatchResult:
        """Draws a batch alone, loading its checkpoint first where needed.

        `on_drawing` hears that the model is there and the first step begins, `on_step` of each step, `on_preview` of
        what the picture looks like, `on_warning` of what a client should know before the first; `should_stop` is asked
        before the first and after each. Out of memory, it frees what is idle and tries once more, one picture at a time
        and in tiles. Raises EngineStopped with its reason, EngineRefused, EngineUnsafe, EngineModelUnavailable,
        EngineAdapterUnusable, EngineOutOfMemory or EngineError; after an unexpected error the model is dropped, since
        nobody knows what state it is in, but not where the pipeline only refused what it was asked for.
        """
        listeners = Listeners(
            on_drawing=on_drawing,
            on_step=on_step,
            on_preview=on_preview,
            on_warning=on_warning,
            should_stop=should_stop,
        )
        with self.drawing(batch, should_stop=should_stop) as sheet:
            row = sheet.add(batch, listeners)
            while not list(sheet.step()):
                pass
        return row.drawn().result()


class Sheet:
    """What is drawn together: batches of one model, with the same adapters."""

    def __init__(self, engine: Engine, entry: CacheEntry, rows: Rows, first: Batch) -> None:
        self._engine = engine
        self._entry = entry
        self._rows = rows
        self._first = first

    @property
    def pictures(self) -> int:
        """How many are being drawn."""
        return self._rows.pictures

    @property
    def room(self) -> int:
        """How many more pictures are worth drawing at the same time; none once the model is in doubt."""
        shared = bool(denoiser_name(self._entry.pipeline))
        # Who joined a model whose parts are there in turns would drive the denoiser out to have the prompt read.
        return self._rows.room if shared and not (self._entry.broken or self._entry.residency) else 0

    def takes(self, batch: Batch) -> bool:
        """Whether a batch can be drawn here: by the same weights, with the same adapters, and neither accelerated."""
        return (
            not self._entry.broken
            and batch.acceleration == self._first.acceleration == "none"
            and self._entry.serves(batch.model)
            and batch.adapters == self._first.adapters
            and batch.reproducible == self._first.reproducible
        )

    def add(self, batch: Batch, listeners: Listeners) -> "SheetRow":
        """Draws a batch from the next step on."""
        drawing = Drawing(self._engine, self._entry, batch, listeners, self._rows)
        return SheetRow(self._rows.add(drawing, pictures=batch.num_images))

    def step(self) -> Iterator["SheetRow"]:
        """One step of all that is drawn, as one goes through it; gives what ends, before the next is decoded."""
        for row in self._rows.tick():
            yield SheetRow(row)


@dataclasses.dataclass(frozen=True)
class SheetRow:
    """One batch of a sheet; equal to another of the same batch."""

    row: Row

    def drawn(self) -> Drawn:
        """Its pictures, once it has ended. Raises what it ended with."""
        if self.row.error is not None:
            raise self.row.error
        return cast(Drawn, self.row.result)
