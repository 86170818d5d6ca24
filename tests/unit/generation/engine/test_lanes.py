"""Lanes: two threads, each with half of torch's, that take turns with nobody."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from generation.engine import Engine
from generation.engine.capacity import Capacity
from generation.engine.joining import Call
from generation.engine.lanes import Lanes
from generation.engine.rows import Row, Rows
from tests.support.batches import BatchMaker, drawn, entry_of

WAIT_S = 60


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    """Lanes of a thread that has six for torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    made = Lanes()
    yield made
    made.close()
    torch.set_num_threads(before)


class _Fixed(Capacity):
    """Learns nothing."""

    def observe(self, pictures: int, seconds: float) -> None:
        """Keeps its limit."""


@pytest.fixture
def rows(lanes: Lanes) -> Iterator[Rows]:
    """Rows with room for many."""
    capacity = _Fixed()
    capacity.limit = 16
    made = Rows(torch.device("cpu"), capacity, lanes=lanes)
    yield made
    made.close()


def steps_of(rows: Rows, module: Any, *, number: int, steps: int, count: int = 1) -> Callable[[Row], Any]:
    """What a row does that calls the denoiser so often, with so many times its number."""

    def work(_: Row) -> list[Any]:
        call = Call((torch.full((count, 1), float(number)),), {"return_dict": False})
        return [rows.denoise(module, call)[0] for _ in range(steps)]

    return work


def draw(rows: Rows) -> list[Row]:
    """Draws all of them; in the order in which they ended."""
    ended = []
    while rows.pictures:
        ended += rows.tick()
    return ended


def threads_of_torch() -> int:
    torch.ones(1 << 16).add(1)  # as the first operator finds them
    return torch.get_num_threads()


def test_each_has_half_of_the_threads_and_others_keep_theirs(lanes: Lanes) -> None:
    both = threading.Barrier(2)
    begun = [lanes.begin(lambda: (both.wait(WAIT_S), threads_of_torch())[1]) for _ in range(2)]
    assert [each.result(WAIT_S) for each in begun] == [3, 3]
    assert threads_of_torch() == 6
    with ThreadPoolExecutor(1) as later:
        assert later.submit(threads_of_torch).result(WAIT_S) == 6


def test_a_lane_does_not_wait_for_the_other(rows: Rows) -> None:
    """One row comes to its end while the first step of another goes on."""
    ended = threading.Event()

    def module(sample: torch.Tensor, **options: Any) -> tuple[torch.Tensor]:
        if sample[0] == 1:
            assert ended.wait(WAIT_S)
        return (sample + 1,)

    slow = rows.add(steps_of(rows, module, number=1, steps=2))
    quick = rows.add(steps_of(rows, module, number=5, steps=3))
    while not quick.greenlet.dead:
        list(rows.tick())
    assert not slow.greenlet.dead
    ended.set()
    assert draw(rows) == [slow]
    assert [float(each) for row in (slow, quick) for each in row.result] == [2, 2, 6, 6, 6]
    assert quick.most == 2


@pytest.mark.parametrize(
    ("counts", "halves"),
    [
        ((1, 1), {1}),
        ((1,) * 16, {8}),
        ((4, 1, 1), {4, 2}),
        ((1, 1, 4), {2, 4}),
        ((2, 2, 2), {4, 2}),
    ],
)
def test_each_takes_half_of_what_stands_still(rows: Rows, counts: tuple[int, ...], halves: set[int]) -> None:
    both, taken = threading.Barrier(2), []

    def module(sample: torch.Tensor, **options: Any) -> tuple[torch.Tensor]:
        both.wait(WAIT_S)
        taken.append(len(sample))
        return (sample,)

    for count in counts:
        rows.add(steps_of(rows, module, number=0, steps=1, count=count))
    draw(rows)
    assert (set(taken), len(taken)) == (halves, 2)


def test_what_is_one_rows_own_is_done_beside_the_others(rows: Rows) -> None:
    """And where there is no other, at once, by all threads."""
    names: list[str] = []

    def name() -> str:
        names.append(threading.current_thread().name)
        return names[-1]

    def work(_: Row) -> Any:
        return rows.do_aside(name)

    rows.add(work)
    draw(rows)
    assert names == [threading.current_thread().name]
    for _ in range(3):
        rows.add(work)
    assert all(row.result in names for row in draw(rows))
    assert [name.partition("_")[0] for name in names[1:3]] == ["lane", "lane"]


def test_what_fails_aside_fails_its_row_alone(rows: Rows) -> None:
    def fail() -> None:
        raise torch.OutOfMemoryError

    failing = rows.add(lambda _: rows.do_aside(fail))
    mate = rows.add(lambda _: rows.do_aside(lambda: 1))
    assert set(map(id, draw(rows))) == {id(failing), id(mate)}
    assert isinstance(failing.error, torch.OutOfMemoryError)
    assert (mate.result, mate.error) == (1, None)


def test_they_are_waited_for_before_a_row_is_alone(rows: Rows) -> None:
    """Whatever it does then, no lane does anything at the same time."""
    going_on, told = threading.Event(), []

    def module(sample: torch.Tensor, **options: Any) -> tuple[torch.Tensor]:
        if sample[0] == 1:
            going_on.set()
            assert not threading.Event().wait(0.2)
            told.append("step")
        return (sample,)

    def alone(row: Row) -> None:
        rows.denoise(module, Call((torch.zeros(1, 1),), {"return_dict": False}))
        assert going_on.wait(WAIT_S)
        rows.alone(row, lambda: told.append("alone"))

    rows.add(steps_of(rows, module, number=1, steps=1))
    rows.add(alone)
    draw(rows)
    assert told == ["step", "alone"]


def test_no_more_are_drawn_at_a_time_than_there_is_room_for(rows: Rows) -> None:
    """In both lanes together."""
    rows.capacity.limit = 4
    at_once, most = [], []

    def module(sample: torch.Tensor, **options: Any) -> tuple[torch.Tensor]:
        at_once.append(len(sample))
        most.append(sum(at_once))
        threading.Event().wait(0.01)
        at_once.remove(len(sample))
        return (sample,)

    for number in range(8):
        rows.add(steps_of(rows, module, number=number, steps=2))
    assert len(draw(rows)) == 8
    assert max(most) <= 4


def test_what_changes_weights_while_it_draws_has_no_lanes(engine: Engine, batch: BatchMaker) -> None:
    request = batch(width=64, height=64, num_inference_steps=1)
    drawn(engine, request)
    entry = entry_of(engine, request.model)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert engine._lanes_for(entry) is not None
        entry.compiles = True
        assert engine._lanes_for(entry) is None
        entry.compiles, entry.quantized = False, {"unet": "torchao"}
        assert engine._lanes_for(entry) is None
        entry.quantized = {}
        torch.set_num_threads(1)
        assert engine._lanes_for(entry) is None
    finally:
        torch.set_num_threads(before)
