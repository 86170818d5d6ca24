"""What an idle worker asks of PostgreSQL, twice a second, and how it comes back where it was forgotten."""

from typing import Any

import pytest

from generation.choices import WorkerStatus
from generation.gpu_worker.control import ControlThread
from generation.models import Worker
from generation.queue.precedence import generation_next
from imagegen_project import __version__


class Idle:
    """A runtime without an engine, and without work."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.runs: list[Any] = []

    def status(self) -> WorkerStatus:
        return WorkerStatus.IDLE

    def memory_mb(self) -> tuple[int, int]:
        return 16_000, 8_000

    def cache_state(self) -> dict[str, Any]:
        return {"resident_models": ["builtin"]}

    def look_ahead(self) -> None:
        assert generation_next() is None


@pytest.fixture
def control(worker: Worker) -> ControlThread:
    worker.version = __version__
    return ControlThread(Idle(worker))  # type: ignore[arg-type]


def test_a_look_that_finds_nothing_asks_three_questions(
    control: ControlThread, django_assert_num_queries: Any
) -> None:
    """The heartbeat, whether there are orders, whether anything is queued; the lease of nothing is not renewed."""
    with django_assert_num_queries(3):
        control.tick()


def test_who_was_forgotten_is_there_again_with_the_next_heartbeat(
    control: ControlThread, worker: Worker
) -> None:
    pk = worker.pk
    Worker.objects.all().delete()
    control.tick()
    row = Worker.objects.get()
    assert (row.pk, row.name, row.version) == (pk, worker.name, __version__)
    assert (row.status, row.memory_free_mb, row.resident_models) == (WorkerStatus.IDLE, 8_000, ["builtin"])
