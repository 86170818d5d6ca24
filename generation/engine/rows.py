"""Rows: pipeline calls that run side by side on one model and share the denoiser's steps.

A row runs its pipeline's own call, in a greenlet of its own. Where that calls the denoiser it stands still until every
row has come as far; then the denoiser runs once for all of them, and each goes on with its part. So a row has its own
scheduler, steps, guidance, seed and deadline, joins and leaves between steps, and alone it is the stock pipeline, bit
for bit. Nothing but the denoiser's step is shared, so a row that fails leaves the others as they are.
"""

import contextvars
import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, cast

import torch
from greenlet import GreenletExit, getcurrent, greenlet

from generation.engine.capacity import Capacity
from generation.engine.compiling import Graphs
from generation.engine.joining import Call, call_plainly, calls_fit, calls_halve, calls_join, output_part
from generation.engine.lanes import Lanes
from generation.engine.memory import allocations_told
from generation.engine.noise import scalars_brought
from generation.engine.planner import DENOISERS

# Denoisers whose calls are put side by side; others run one row after the other.
SHARED: Final = ("UNet2DConditionModel", "SD3Transformer2DModel", "FluxTransformer2DModel")


def denoiser_name(pipeline: Any) -> str:
    """Under which name a pipeline holds a denoiser that rows can share; "" where it has none."""
    for name in DENOISERS:
        if type(getattr(pipeline, name, None)).__name__ in SHARED:
            return name
    return ""


class _Denoiser:
    """Stands in a row's pipeline for the denoiser."""

    def __init__(self, rows: "Rows", module: Any) -> None:
        self._rows = rows
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._rows.denoise(self._module, Call(arguments, keywords))


class Row:
    """One pipeline call: what it stands before, and in the end what became of it."""

    def __init__(self, pictures: int, *, joined: bool) -> None:
        self.pictures = pictures
        # Whether others were being drawn when it came.
        self.joined = joined
        # Pictures in its steps: the most, and all of them together.
        self.most = 0
        self.summed = 0
        self.steps = 0
        # Whether graphs of a compiler were part of it.
        self.compiled = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.call: Call | None = None
        self.module: Any = None
        self.greenlet: Any = None

    @property
    def batched_with(self) -> int:
        """How many pictures of others were drawn with it at the most."""
        return max(0, self.most - self.pictures)

    @property
    def share(self) -> float:
        """Which part of the pictures that were drawn meanwhile were its own."""
        return self.pictures * self.steps / self.summed if self.summed else 1.0

    @property
    def ended(self) -> bool:
        """Whether it has a result or an error."""
        return bool(self.greenlet.dead)


class Rows:
    """The rows of one model. For the pipeline thread alone.

    `between_steps` is called after each step, while no row is in the middle of anything. `run` calls the denoiser,
    in `lanes` where there are such.
    """

    def __init__(
        self,
        device: torch.device,
        capacity: Capacity,
        *,
        between_steps: Callable[[], object] = lambda: None,
        run: Callable[[Any, Call], Any] = call_plainly,
        lanes: Lanes | None = None,
    ) -> None:
        self.capacity = capacity
        self._device = device
        self._between_steps = between_steps
        self._run = run
        self._lanes = lanes
        self._rows: list[Row] = []
        self._fresh: list[Row] = []
        self._alone: Row | None = None
        # Of the latest step on a card: when it begins and ends there, and how many pictures it has.
        self._latest: tuple[Any, Any, int] | None = None

    @property
    def pictures(self) -> int:
        """How many are being drawn."""
        return sum(row.pictures for row in (*self._rows, *self._fresh))

    @property
    def room(self) -> int:
        """How many more are worth drawing at the same time."""
        return max(0, self.capacity.limit - self.pictures)

    def pipeline(self, pipeline: Any) -> Any:
        """The same pipeline for one row: what its call keeps in it is the row's own."""
        own = copy.copy(pipeline)
        # Past the registration of parts, whose place it takes.
        if name := denoiser_name(pipeline):
            own.__dict__[name] = _Denoiser(self, getattr(pipeline, name))
        return own

    def add(self, work: Callable[[Row], Any], *, pictures: int = 1) -> Row:
        """A row that does this work, from the next step on; it runs in a copy of the caller's context."""
        row = Row(pictures, joined=any(each.steps for each in self._rows))

        def run() -> None:
            try:
                row.result = work(row)
            except GreenletExit:
                raise
            except BaseException as error:  # noqa: BLE001 - it is the caller's of `tick`
                row.error = error

        row.greenlet = greenlet(run)
        row.greenlet.gr_context = contextvars.copy_context()
        self._fresh.append(row)
        return row

    def tick(self) -> Iterator[Row]:
        """One step of every row, as one goes through it; gives each row that ends, before the next is decoded."""
        fresh, self._fresh = self._fresh, []
        self._rows += fresh
        for row in fresh:
            yield from self._go_on(row)
        for module, group in self._groups():
            yield from self._step(module, group)
        self._between_steps()

    def close(self) -> None:
        """Ends the rows that are left, without results."""
        with torch.inference_mode():  # as they were left
            for row in self._rows:
                if row.greenlet:
                    row.greenlet.throw(GreenletExit)
        self._rows, self._fresh = [], []

    def alone(self, row: Row, work: Callable[[], Any]) -> Any:
        """Does a row's work to its end while all others stand still."""
        self._alone = row
        try:
            return work()
        finally:
            self._alone = None

    # What a row's greenlet calls, and how it goes on

    def denoise(self, module: Any, call: Call) -> Any:
        """The denoiser's answer, once every row stands before such a call."""
        row = next((row for row in self._rows if row.greenlet is getcurrent()), None)
        if row is None:
            return call_plainly(module, call)
        if row is self._alone:
            runs = Graphs.runs
            output = call_plainly(module, call)
            row.compiled |= Graphs.runs > runs
            return output
        row.module, row.call = module, call
        return row.greenlet.parent.switch()

    def _go_on(self, row: Row, output: Any = None) -> Iterator[Row]:
        row.call = None
        with torch.inference_mode():
            if isinstance(output, BaseException):
                row.greenlet.throw(output)
            elif row.greenlet:  # it has begun
                row.greenlet.switch(output)
            else:
                row.greenlet.switch()
        if row.ended:
            self._rows.remove(row)
            yield row

    def _groups(self) -> list[tuple[Any, list[Row]]]:
        """The rows that stand before calls, those together that fit together and within the capacity."""
        groups: list[tuple[Any, list[Row]]] = []
        for row in self._rows:
            if row.call is None:
                continue
            for module, group in groups:
                within = sum(each.pictures for each in group) + row.pictures <= self.capacity.limit
                if within and module is row.module and group[0].call and calls_fit(group[0].call, row.call):
                    group.append(row)
                    break
            else:
                groups.append((row.module, [row]))
        return groups

    def _step(self, module: Any, group: list[Row]) -> Iterator[Row]:
        began = time.perf_counter()
        calls = [row.call for row in group if row.call is not None]
        pictures = sum(row.pictures for row in group)
        runs = Graphs.runs
        try:
            outputs: list[Any] = self._forward(module, calls, pictures=pictures)
        except torch.OutOfMemoryError as error:
            if len(group) > 1:
                # Half at a time, from now on too; no latents are lost, since a forward changes none.
                self.capacity.shrink(pictures)
                middle = (len(group) + 1) // 2
                yield from self._step(module, group[:middle])
                yield from self._step(module, group[middle:])
                return
            outputs = [error]
        except Exception as error:  # noqa: BLE001 - the row's own, and it says what it means
            if len(group) > 1:
                for row in group:
                    yield from self._step(module, [row])
                return
            outputs = [error]
        compiled = Graphs.runs > runs
        for row, output in zip(group, outputs, strict=True):
            row.steps += 1
            row.summed += pictures
            row.most = max(row.most, pictures)
            row.compiled |= compiled
            yield from self._go_on(row, output)
        # The last step is one with a decoding in it.
        if self._device.type != "cuda" and all(not row.ended for row in group):
            self.capacity.observe(pictures, time.perf_counter() - began)

    def _forward(self, module: Any, calls: list[Call], *, pictures: int) -> list[Any]:
        if self._device.type == "cuda":
            calls = [call.changed(partial(scalars_brought, self._device)) for call in calls]
        with allocations_told(), self._paced(pictures):
            if self._lanes is None or len(calls) == 1:
                return cast(list[Any], self._together(module, calls))
            first, second = self._lanes.run(partial(self._together, module), calls_halve(calls))
            return [*first, *second]

    @torch.inference_mode()  # each thread's own
    def _together(self, module: Any, calls: list[Call]) -> list[Any]:
        call = calls_join(calls) if len(calls) > 1 else calls[0]
        output = self._run(module, call)
        return output_part(output, [call.rows for call in calls]) if len(calls) > 1 else [output]

    @contextmanager
    def _paced(self, pictures: int) -> Iterator[None]:
        """Lets the host be ahead of a card by the step in the block and no other; tells how long the one before took.

        So the card has work while the host looks after rows, and a cancel still ends a job within a step.
        """
        if self._device.type != "cuda":
            yield
            return
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        yield
        ended.record()
        before, self._latest = self._latest, (began, ended, pictures)
        if before is not None:
            before[1].synchronize()
            self.capacity.observe(before[2], before[0].elapsed_time(before[1]) / 1000)
