"""Rows: pipeline calls that run side by side on one model and share the denoiser's steps.

A row runs its pipeline's own call, in a greenlet of its own. Where that calls the denoiser it stands still until every
row has come as far; then the denoiser runs once for all of them, and each goes on with its part. So a row has its own
scheduler, steps, guidance, seed and deadline, joins and leaves between steps, and alone it is the stock pipeline, bit
for bit. Nothing but the denoiser's step is shared, so a row that fails leaves the others as they are.

In lanes, rows do not wait for all others: whenever a lane is free, it takes its half of those that stand still.
"""

import contextvars
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch
from greenlet import GreenletExit, getcurrent, greenlet

from generation.engine.capacity import Capacity
from generation.engine.compiling import Graphs
from generation.engine.joining import Call, call_plainly, calls_fit, calls_join, output_part
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
        # What it stands still before: a call of the denoiser, or something else that a lane does for it alone.
        self.call: Call | None = None
        self.module: Any = None
        self.aside: Callable[[], Any] | None = None
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


@dataclass
class _Step:
    """A call of the denoiser for rows together, or what one row has done aside."""

    rows: list[Row]
    calls: list[Call] = field(init=False)
    began: float = field(default_factory=time.perf_counter)
    graph_runs: int = field(default_factory=lambda: Graphs.runs)

    def __post_init__(self) -> None:
        """Takes note of the rows' calls, which are gone once they go on."""
        self.calls = [row.call for row in self.rows if row.call is not None]

    @property
    def pictures(self) -> int:
        """How many are in it."""
        return _pictures(self.rows)


class Rows:
    """The rows of one model. For the pipeline thread alone.

    `between_steps` is called after each step. `run` calls the denoiser, in `lanes` where there are such.
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
        # Rows that stand still, in the order in which they came to.
        self._standing: list[Row] = []
        # What the lanes are at.
        self._under_way: dict[Future[Any], _Step] = {}
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
        """One step of every row, or of a lane's, as one goes through it; gives each row that ends, as it does."""
        fresh, self._fresh = self._fresh, []
        self._rows += fresh
        for row in fresh:
            yield from self._go_on(row)
        several = len(self._standing) > 1 and self.capacity.limit >= Lanes.COUNT
        if self._lanes is not None and (self._under_way or several):
            yield from self._lane_step(self._lanes)
        else:
            for rows in self._groups():
                yield from self._step(rows)
        self._between_steps()

    def close(self) -> None:
        """Ends the rows that are left, without results."""
        self.lanes_wait()
        self._under_way.clear()
        with torch.inference_mode():  # as they were left
            for row in self._rows:
                if row.greenlet:
                    row.greenlet.throw(GreenletExit)
        self._rows, self._fresh, self._standing = [], [], []

    def alone(self, row: Row, work: Callable[[], Any]) -> Any:
        """Does a row's work to its end while all others stand still."""
        self.lanes_wait()
        self._alone = row
        try:
            return work()
        finally:
            self._alone = None

    def lanes_wait(self) -> None:
        """Waits until no lane does anything; what it did stays for the next step."""
        wait(self._under_way)

    # What a row's greenlet calls, and how it goes on

    def denoise(self, module: Any, call: Call) -> Any:
        """The denoiser's answer, once every row stands before such a call."""
        row = self._calling()
        if row is None:
            return call_plainly(module, call)
        if row is self._alone:
            runs = Graphs.runs
            output = call_plainly(module, call)
            row.compiled |= Graphs.runs > runs
            return output
        row.module, row.call = module, call
        return self._stand_still(row)

    def do_aside(self, work: Callable[[], Any]) -> Any:
        """What a part of a row's call returns that is its own; beside other rows, a lane does it."""
        row = self._calling()
        if self._lanes is None or row is None or row is self._alone or len(self._rows) == 1:
            return work()
        row.aside = work
        return self._stand_still(row)

    def _calling(self) -> Row | None:
        return next((row for row in self._rows if row.greenlet is getcurrent()), None)

    def _stand_still(self, row: Row) -> Any:
        self._standing.append(row)
        return row.greenlet.parent.switch()

    def _go_on(self, row: Row, output: Any = None) -> Iterator[Row]:
        row.call = row.aside = None
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

    def _groups(self) -> list[list[Row]]:
        """All rows that stand still, those together that fit together and within the capacity."""
        groups = []
        while self._standing:
            groups.append(self._group(lambda rows: _pictures(rows) <= self.capacity.limit))
        return groups

    def _group(self, has_room: Callable[[list[Row]], bool]) -> list[Row]:
        """The first row that stands still, with those that fit to it and for which there is room."""
        group = [self._standing.pop(0)]
        for row in [*self._standing]:
            if _fit(group[0], row) and has_room([*group, row]):
                group.append(row)
                self._standing.remove(row)
        return group

    # Steps of all rows

    def _step(self, rows: list[Row]) -> Iterator[Row]:
        step = _Step(rows)
        yield from self._end(step, partial(self._work, step), pictures=step.pictures, timed_as=step.pictures)

    @torch.inference_mode()  # each thread's own
    def _work(self, step: _Step) -> list[Any]:
        """What each row of a step goes on with."""
        first, calls = step.rows[0], step.calls
        if first.aside is not None:
            return [first.aside()]
        if self._device.type == "cuda":
            calls = [call.changed(partial(scalars_brought, self._device)) for call in calls]
        with allocations_told(), self._paced(step.pictures):
            output = self._run(first.module, calls_join(calls) if len(calls) > 1 else calls[0])
        return output_part(output, [call.rows for call in calls]) if len(calls) > 1 else [output]

    def _end(
        self, step: _Step, outputs_of: Callable[[], list[Any]], *, pictures: int, timed_as: int
    ) -> Iterator[Row]:
        """Has the rows of a step go on, whatever became of it. So many pictures were drawn at the time.

        It is `timed_as` a step with that many; 0 where its time says nothing.
        """
        rows = step.rows
        try:
            outputs: list[Any] = outputs_of()
        except torch.OutOfMemoryError as error:
            if len(rows) > 1:
                # Half at a time, from now on too; no latents are lost, since a forward changes none.
                self.capacity.shrink(pictures)
                middle = (len(rows) + 1) // 2
                yield from self._step(rows[:middle])
                yield from self._step(rows[middle:])
                return
            outputs = [error]
        except Exception as error:  # noqa: BLE001 - the row's own, and it says what it means
            if len(rows) > 1:
                for row in rows:
                    yield from self._step([row])
                return
            outputs = [error]
        if not step.calls:
            yield from self._go_on(rows[0], outputs[0])
            return
        compiled = Graphs.runs > step.graph_runs
        for row, output in zip(rows, outputs, strict=True):
            row.steps += 1
            row.summed += pictures
            row.most = max(row.most, pictures)
            row.compiled |= compiled
            yield from self._go_on(row, output)
        # The last step is one with a decoding in it.
        if timed_as and self._device.type != "cuda" and all(not row.ended for row in rows):
            self.capacity.observe(timed_as, time.perf_counter() - step.began)

    # Steps of lanes

    def _lane_step(self, free: Lanes) -> Iterator[Row]:
        """Gives free lanes something to do, and has the rows go on with which the first of them is done."""
        while self._standing and len(self._under_way) < Lanes.COUNT and self._lane_has_room():
            step = self._lane_take()
            self._under_way[free.begin(partial(self._work, step))] = step
        wait(self._under_way, return_when=FIRST_COMPLETED)
        future = next(each for each in self._under_way if each.done())
        step = self._under_way.pop(future)
        beside = sum(other.pictures for other in self._under_way.values() if other.calls)
        yield from self._end(
            step,
            future.result,
            pictures=step.pictures + beside,
            # All lanes together would have taken that long for as many in each.
            timed_as=step.pictures * Lanes.COUNT if beside else 0,
        )

    def _lane_has_room(self) -> bool:
        drawn = sum(step.pictures for step in self._under_way.values())
        return not drawn or drawn + self._standing[0].pictures <= self.capacity.limit

    def _lane_take(self) -> _Step:
        """What a lane does next: its share of the rows, or what one has done aside."""
        share = sum(call.rows for row in self._rows if (call := row.call)) / Lanes.COUNT

        def has_room(rows: list[Row]) -> bool:
            counts = [row.call.rows for row in rows if row.call is not None]
            within = _pictures(rows) <= self.capacity.limit / Lanes.COUNT
            return within and sum(counts) - counts[-1] / 2 <= share

        return _Step(self._group(has_room))

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


def _pictures(rows: Sequence[Row]) -> int:
    return sum(row.pictures for row in rows)


def _fit(one: Row, other: Row) -> bool:
    """Whether both stand before calls that can be one."""
    if one.call is None or other.call is None:
        return False
    return one.module is other.module and calls_fit(one.call, other.call)
