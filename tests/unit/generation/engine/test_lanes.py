"""Lanes: two threads, each with half of torch's, that work at the same time."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from generation.engine import Engine
from generation.engine.joining import Call, calls_halve
from generation.engine.lanes import Lanes
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


def threads_of_torch(_: object = None) -> int:
    torch.ones(1 << 16).add(1)  # as the first operator finds them
    return torch.get_num_threads()


def test_each_has_half_of_the_threads_and_others_keep_theirs(lanes: Lanes) -> None:
    assert lanes.run(threads_of_torch, range(2)) == [3, 3]
    assert threads_of_torch() == 6
    with ThreadPoolExecutor(1) as later:
        assert later.submit(threads_of_torch).result(WAIT_S) == 6


def test_both_work_at_the_same_time(lanes: Lanes) -> None:
    both = threading.Barrier(2)
    names = lanes.run(lambda _: (both.wait(WAIT_S), threading.current_thread().name)[1], range(2))
    assert len(set(names)) == 2


def test_an_error_comes_once_both_have_ended(lanes: Lanes) -> None:
    ended: list[str] = []
    failed = threading.Event()

    def work(name: str) -> None:
        if name == "failing":
            failed.set()
            raise torch.OutOfMemoryError
        failed.wait(WAIT_S)
        ended.append(name)

    with pytest.raises(torch.OutOfMemoryError):
        lanes.run(work, ["failing", "other"])
    assert ended == ["other"]


@pytest.mark.parametrize(
    ("rows", "first"), [((1, 1), 1), ((1, 1, 1, 1), 2), ((4, 1, 1), 1), ((1, 1, 4), 2), ((2, 2, 2), 1)]
)
def test_calls_are_halved_by_their_rows(rows: tuple[int, ...], first: int) -> None:
    calls = [Call((torch.zeros(count, 1),), {}) for count in rows]
    one, other = calls_halve(calls)
    assert (one, other) == (calls[:first], calls[first:])


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
