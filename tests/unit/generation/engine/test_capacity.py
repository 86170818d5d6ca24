"""How many pictures at a time, by how long their steps take."""

from collections import Counter
from collections.abc import Callable

import pytest

from generation.engine.capacity import AGAIN_AFTER_S, SAMPLES, Capacity


class Clock:
    """A clock that is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def learn(capacity: Capacity, seconds: Callable[[int], float], *, steps: int = 60) -> int:
    """Draws as many as there is room for, again and again."""
    for _ in range(steps):
        capacity.observe(capacity.limit, seconds(capacity.limit))
    return capacity.limit


@pytest.mark.parametrize(
    ("seconds", "limit"),
    [
        (lambda pictures: 0.03 + 0.005 * pictures, 32),  # most of a step is overhead
        (lambda pictures: pictures * 1.0, 1),  # a GPU that one picture fills
        (
            lambda pictures: 0.1 + 0.001 * pictures if pictures <= 8 else pictures * 0.02,
            8,
        ),  # a cache that is full
        (lambda pictures: 0.1 * pictures**0.8, 8),  # it would pay, but a step would take 9 times as long
    ],
)
def test_it_doubles_while_that_pays(seconds: Callable[[int], float], limit: int) -> None:
    """And goes back to the last that did."""
    assert learn(Capacity(), seconds) == limit


def test_steps_that_something_slowed_down_say_nothing() -> None:
    """The first ones with a new number of pictures make kernels for it, and others have busy neighbours."""
    seen: Counter[int] = Counter()

    def seconds(pictures: int) -> float:
        seen[pictures] += 1
        return (0.03 + 0.005 * pictures) * (5 if seen[pictures] % SAMPLES else 1)

    assert learn(Capacity(), seconds) == 32


def test_a_neighbour_that_comes_takes_no_room_away() -> None:
    """Many pictures are not held against what few took before it came; a few steps of fewer tell."""
    capacity = Capacity()
    learn(capacity, lambda pictures: 0.03 + 0.005 * pictures)
    limits: Counter[int] = Counter()
    for _ in range(200):
        limits[capacity.limit] += 1
        capacity.observe(capacity.limit, 2.5 * (0.03 + 0.005 * capacity.limit))
    assert set(limits) == {16, 32}
    assert limits[16] <= 2 * SAMPLES


def test_what_was_refused_is_tried_again() -> None:
    """It may have been measured beside a busy neighbour."""
    clock = Clock()
    capacity = Capacity(clock=clock)
    assert learn(capacity, lambda pictures: pictures * 1.0) == 1
    assert learn(capacity, lambda pictures: 1.0, steps=SAMPLES) == 1
    clock.now += AGAIN_AFTER_S + 1
    assert learn(capacity, lambda pictures: 1.0) == 32


def test_memory_that_does_not_suffice_halves_it() -> None:
    """Whatever was learned of time."""
    capacity = Capacity()
    learn(capacity, lambda pictures: 1.0)
    capacity.shrink(32)
    assert learn(capacity, lambda pictures: 1.0, steps=20) == 16


def test_one_request_of_many_pictures_counts() -> None:
    """Where that many are drawn at a time, others may join."""
    capacity = Capacity()
    for _ in range(SAMPLES):
        capacity.observe(4, 1.0)
    assert capacity.limit >= 4
