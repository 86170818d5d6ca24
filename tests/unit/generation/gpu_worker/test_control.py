"""What a worker asks of PostgreSQL, twice a second, and how it comes back where it was forgotten."""

from typing import Any

import pytest

from generation.choices import WorkerStatus
from generation.gpu_worker.control import ControlThread
from generation.models import Worker
from imagegen_project import __version__
from tests.support.factories import GenerationMaker


class Idle:
    """A runtime without an engine, and without work."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.runs: list[Any] = []

        self.does = WorkerStatus.IDLE
        self.found: list[bool] = []

    def status(self) -> WorkerStatus:
        return self.does

    def models(self) -> list[Any]:
        return []

    def memory_mb(self) -> tuple[int, int]:
        return 16_000, 8_000

    def cache_state(self) -> dict[str, Any]:
        return {"resident_models": ["builtin"]}

    def look_ahead(self, *, queued: bool) -> None:
        self.found.append(queued)


@pytest.fixture
def idle(worker: Worker) -> Idle:
    worker.version = __version__
    return Idle(worker)


@pytest.fixture
def control(idle: Idle, monkeypatch: pytest.MonkeyPatch) -> ControlThread:
    """One that looks at each tick."""
    monkeypatch.setattr("generation.gpu_worker.control.LOOK_EVERY_S", 0.0)
    return ControlThread(idle)  # type: ignore[arg-type]  # it has what is asked of it, and no more


def test_a_look_that_finds_nothing_asks_one_question(
    control: ControlThread, idle: Idle, django_assert_num_queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether there are orders or jobs; a heartbeat comes when it has something new to say, and now and then."""
    with django_assert_num_queries(2):
        control.tick()
    with django_assert_num_queries(1):
        control.tick()
    idle.does = WorkerStatus.BUSY
    with django_assert_num_queries(2):
        control.tick()
    assert Worker.objects.get().status == WorkerStatus.BUSY
    monkeypatch.setattr("generation.gpu_worker.control.HEARTBEAT_EVERY_S", 0.0)
    with django_assert_num_queries(2):
        control.tick()


def test_a_look_finds_jobs(control: ControlThread, idle: Idle, make: GenerationMaker) -> None:
    control.tick()
    make()
    control.tick()
    assert idle.found == [False, True]


def test_who_was_forgotten_is_there_again_with_the_next_heartbeat(
    control: ControlThread, worker: Worker
) -> None:
    pk = worker.pk
    Worker.objects.all().delete()
    control.tick()
    row = Worker.objects.get()
    assert (row.pk, row.name, row.version) == (pk, worker.name, __version__)
    assert (row.status, row.memory_free_mb, row.resident_models) == (WorkerStatus.IDLE, 8_000, ["builtin"])
