"""PostgreSQL's clock is set while generations run."""

from collections.abc import Callable, Iterator

import pytest
from django.conf import settings as configured
from django.db import connection
from django.db.models.functions import Now

from generation.attempts import generation_claim
from generation.choices import CommandKind
from generation.models import Generation, Worker, WorkerCommand
from generation.orders import order_create
from generation.upkeep import clock
from generation.upkeep import sweep as sweeping
from generation.upkeep.clock import DatabaseClock
from generation.upkeep.sweep import sweep
from tests.support.clocks import SEARCH_PATH, clock_replace, clock_set
from tests.support.endings import attempt_renew, succeed
from tests.support.factories import GenerationMaker, make_worker

HOUR_S = 3600


class Clocks:
    """PostgreSQL's clock and the sweeper's own, which go on together and of which the first can be set."""

    def __init__(self, execute: Callable[..., object]) -> None:
        self._execute = execute
        self.monotonic_s = 1000.0
        self._set_s = 0

    def set_by(self, seconds: int) -> None:
        """Sets PostgreSQL's clock."""
        self._set_s += seconds
        clock_set(self._execute, seconds=self._set_s)

    def go_on(self, seconds: int) -> None:
        """Lets time pass, which both show."""
        self.monotonic_s += seconds
        self.set_by(seconds)

    def monotonic(self) -> float:
        """The sweeper's own."""
        return self.monotonic_s


@pytest.fixture
def clocks(db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clocks]:
    """Clocks that go right, for a sweeper that begins now."""
    with connection.cursor() as cursor:
        clock_replace(cursor.execute)
        cursor.execute(f"SET search_path = {SEARCH_PATH}")
        made = Clocks(cursor.execute)
        monkeypatch.setattr(clock, "time", made)
        monkeypatch.setattr(sweeping, "database_clock", DatabaseClock())
        yield made
        cursor.execute("SET search_path TO DEFAULT")


@pytest.fixture
def claimed(make: GenerationMaker, worker: Worker, clocks: Clocks) -> Generation:
    """A generation that a live worker runs."""
    make()
    Worker.objects.update(heartbeat_at=Now())
    generation = generation_claim(worker=worker)
    assert generation is not None
    return generation


@pytest.mark.parametrize("jump_s", [HOUR_S // 60, 2 * HOUR_S])
def test_nothing_runs_out_because_the_clock_went_on(claimed: Generation, clocks: Clocks, jump_s: int) -> None:
    """Who lives renews in time; nothing is drawn twice, no worker and no order is forgotten."""
    [order] = order_create(kind=CommandKind.UNLOAD, checkpoint=claimed.checkpoint, requested_by=claimed.owner)
    sweep()
    clocks.set_by(jump_s)
    for passing_s in (0, 1, configured.LEASE_S - 1, 2):
        clocks.go_on(passing_s)
        sweep()
        assert attempt_renew(generation_id=claimed.id, attempt=1, step=1).held
        Worker.objects.update(heartbeat_at=Now())
    claimed.refresh_from_db()
    assert (claimed.status, claimed.attempt, claimed.attempt_log) == ("running", 1, [])
    assert WorkerCommand.objects.get(pk=order.pk).status == "pending"


def test_a_lost_worker_is_still_seen_after_a_jump(claimed: Generation, clocks: Clocks) -> None:
    """One lease's length later; and what it does then changes nothing any more."""
    stale = Generation.objects.select_related("owner").get(pk=claimed.pk)
    sweep()
    clocks.set_by(HOUR_S)
    sweep()
    clocks.go_on(configured.LEASE_S + 1)
    sweep()
    claimed.refresh_from_db()
    assert (claimed.status, [entry["reason"] for entry in claimed.attempt_log]) == ("queued", ["worker_lost"])
    again = generation_claim(worker=make_worker("worker-2"))
    assert again is not None
    assert again.attempt == 2
    assert not attempt_renew(generation_id=claimed.id, attempt=1, step=1).held
    assert not succeed(stale)
    assert succeed(again)


def test_a_lost_worker_is_still_seen_after_the_clock_went_back(claimed: Generation, clocks: Clocks) -> None:
    """Not only when its lease runs out by the clock that was."""
    sweep()
    clocks.set_by(-HOUR_S)
    sweep()
    for _ in range(2):
        clocks.go_on(configured.LEASE_S + 1)
        sweep()
    claimed.refresh_from_db()
    assert (claimed.status, [entry["reason"] for entry in claimed.attempt_log]) == ("queued", ["worker_lost"])
    assert not Worker.objects.filter(heartbeat_at__gt=Now()).exists()


def test_a_slow_answer_is_no_jump(clocks: Clocks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks may pass what passes, and each may take its time."""
    database = DatabaseClock()
    looks = iter([0.0, 5.0, 5.0, 5.1])
    monkeypatch.setattr(clocks, "monotonic", lambda: next(looks))
    assert database.is_steady()
    assert database.is_steady()
