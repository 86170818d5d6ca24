"""Redis has no memory left: it refuses every write, and nothing that PostgreSQL knows waits for it."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import redis

from generation.attempts import generation_claim
from generation.feed.following import wait_for_end
from generation.feed.stream import event_publish
from generation.gpu_worker.runtime import GpuRuntime
from generation.models import Generation, Worker
from imagegen_project.common import rq_worker
from imagegen_project.common.executors import run_in_socket_executor
from imagegen_project.common.queues import entries_push, queue_get
from imagegen_project.common.rq_worker import AllowlistedWorker
from tests.support.endings import succeed
from tests.support.factories import GenerationMaker
from tests.support.service import wait_for

ran: list[str] = []


def known() -> None:
    """An entry point; it asks its worker to stop, as a supervisor does."""
    ran.append("known")
    os.kill(os.getpid(), signal.SIGTERM)


class CountingWorker(AllowlistedWorker):
    """Knows one entry point, and counts how often RQ's loop began."""

    ENTRY_POINTS = (f"{__name__}.known",)
    began: ClassVar[list[str]] = []

    def register_birth(self) -> None:
        """Where RQ's loop begins."""
        self.began.append(self.name)
        super().register_birth()  # type: ignore[no-untyped-call]


@pytest.fixture
def full_redis(empty_redis: "redis.Redis[Any]") -> Iterator[Callable[[], None]]:
    """A Redis that refuses writes, until the function that this gives is called."""
    limits = {name: empty_redis.config_get(name)[name] for name in ("maxmemory", "maxmemory-policy")}

    def make_room() -> None:
        for name, value in limits.items():
            empty_redis.config_set(name, value)

    empty_redis.config_set("maxmemory-policy", "noeviction")
    empty_redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            empty_redis.set("x", 1)
        yield make_room
    finally:
        make_room()


@pytest.fixture
def _own_signals() -> Iterator[None]:
    held = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in held.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_own_signals")
def test_an_rq_worker_outlives_a_full_redis(
    full_redis: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not end, to be started again for ever with its models to load; it works once there is room."""
    monkeypatch.setattr(rq_worker, "BEGIN_AGAIN_S", (0.01,))
    queue = queue_get("downloads")
    ran.clear()
    CountingWorker.began.clear()

    def heal() -> None:
        wait_for(lambda: len(CountingWorker.began) >= 3, "a third beginning")
        full_redis()
        assert entries_push("downloads", f"{__name__}.known")

    healer = threading.Thread(target=heal)
    healer.start()
    CountingWorker([queue], connection=queue.connection, serializer=queue.serializer).work(logging_level=None)
    healer.join()
    assert ran == ["known"]
    assert len(set(CountingWorker.began)) == len(CountingWorker.began), "each time under a name of its own"


@pytest.mark.django_db(transaction=True)
async def test_waits_end_by_what_postgresql_says(
    make: GenerationMaker, worker: Worker, full_redis: Callable[[], None]
) -> None:
    """No event reaches anybody; whoever waits is told all the same."""

    def run() -> None:
        claimed = generation_claim(worker=worker)
        assert claimed is not None
        event_publish(claimed.id, "progress", attempt=1, step=1)
        assert succeed(claimed)

    generation: Generation = await run_in_socket_executor(make)
    waiting = asyncio.create_task(wait_for_end([generation.id], seconds=60))
    await run_in_socket_executor(run)
    assert await waiting


class Idle:
    """An easel that nothing stands on."""

    runs: tuple[()] = ()


class BareRuntime(GpuRuntime):
    """One without a GPU: it notes when it would claim."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._easel: Any = Idle()
        self._loading = False
        self.engine: Any = SimpleNamespace(models=list)  # it holds none
        self.draining = threading.Event()
        self.claims = 0
        self._begun = None
        self._pipeline = ThreadPoolExecutor(max_workers=1)

    def _claim_and_run(self) -> None:
        self.claims += 1


@pytest.mark.django_db(transaction=True)
def test_a_worker_finds_jobs_that_no_entry_told_it_of(
    make: GenerationMaker, worker: Worker, full_redis: Callable[[], None]
) -> None:
    """It looks for itself, while it has nothing to do and is not about to stop."""
    runtime = BareRuntime(worker)
    runtime.look_ahead(queued=False)
    make()
    runtime.look_ahead(queued=True)
    runtime._pipeline.shutdown(wait=True)
    assert runtime.claims == 1
    runtime.draining.set()
    runtime.look_ahead(queued=True)
    assert runtime.claims == 1
