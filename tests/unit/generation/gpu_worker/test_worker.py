"""What a GPU worker is made of, without a GPU: RQ's allow-list, the run's reasons, orders, logs."""

import json
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from django.contrib.auth.models import User
from django.utils import timezone
from pytest_django import Settings
from rq import Callback, Queue

from generation.attempts import generation_claim
from generation.choices import CommandKind
from generation.gpu_worker.run import CANCELED, HAND_BACK, TIMEOUT, Run
from generation.gpu_worker.runtime import GpuRuntime
from generation.gpu_worker.worker import GpuWorker
from generation.models import Generation, Worker
from generation.orders import order_create
from generation.queue.entries import worker_wake, workers_wake
from generation.upkeep.sweep import leases_take_back
from imagegen_project.common.queues import queue_get
from imagegen_project.common.rq_worker import AllowlistedWorker
from models_registry.models import Checkpoint
from tests.support.endings import succeed
from tests.support.factories import GenerationMaker, make_worker

calls: list[Any] = []


def known(*args: Any) -> None:
    """An entry point that the test's worker knows."""
    calls.append(args)


def unknown(*args: Any) -> None:
    """An importable function that it does not."""
    calls.append("unknown")


class KnowingWorker(AllowlistedWorker):
    """Knows one entry point."""

    ENTRY_POINTS = (f"{__name__}.known",)


def work(queue: Queue) -> None:
    """Runs what is queued."""
    calls.clear()
    worker = KnowingWorker([queue], connection=queue.connection, serializer=queue.serializer)
    worker.work(burst=True, logging_level=None)


def test_a_known_entry_runs_and_leaves_nothing_behind() -> None:
    """Neither a result nor a registry entry."""
    queue = queue_get("downloads")
    queue.enqueue_call(f"{__name__}.known", args=("x",), timeout=-1, result_ttl=0)
    work(queue)
    assert calls == [("x",)]
    assert queue.count == 0
    assert queue.finished_job_registry.count == 0


@pytest.mark.parametrize(
    "options",
    [
        {"func": f"{__name__}.unknown"},
        {"func": "os.system", "args": ("true",)},
        {"func": f"{__name__}.known", "on_success": Callback(f"{__name__}.unknown")},
        {"func": f"{__name__}.known", "on_failure": Callback(f"{__name__}.unknown")},
    ],
    ids=("unknown", "os.system", "on_success", "on_failure"),
)
def test_everything_else_is_refused_and_dropped(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever can write to Redis cannot run code here; the worker lives on."""
    queue = queue_get("downloads")
    queue.enqueue_call(timeout=-1, **options)
    queue.enqueue_call(f"{__name__}.known", timeout=-1, result_ttl=0)
    work(queue)
    assert calls == [()]
    assert queue.count == 0
    assert queue.failed_job_registry.count == 0
    assert "entry refused" in caplog.text


def test_entries_without_a_readable_function_are_refused(redis_client: Any) -> None:
    """Garbage in Redis does not end the worker."""
    queue = queue_get("downloads")
    job = queue.enqueue_call(f"{__name__}.known", timeout=-1)
    redis_client.hset(job.key, "data", b"garbage")
    queue.enqueue_call(f"{__name__}.known", timeout=-1, result_ttl=0)
    work(queue)
    assert calls == [()]


def test_a_wake_up_is_forgotten_before_it_is_followed(
    redis_client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It says no more than that there is work: nothing of it is kept, and what goes wrong meanwhile ends no worker."""
    queue = queue_get("generations")
    worker = GpuWorker([queue], connection=queue.connection, serializer=queue.serializer)
    seen: list[Any] = []

    def run_next() -> None:
        seen.append((worker.get_state(), redis_client.keys("rq:job:*"), redis_client.lrange(between, 0, -1)))
        if queue.count:
            raise ValueError

    between = queue.intermediate_queue_key
    worker.runtime = SimpleNamespace(run_next=run_next)  # type: ignore[assignment]
    worker_wake()
    worker.work(burst=True, logging_level=None)
    assert seen == [("busy", [], [])]
    workers_wake(device_class="", entries=2)
    worker.work(burst=True, logging_level=None)
    assert [state for state, _, _ in seen] == ["busy"] * 3
    assert "entry failed" in caplog.text
    assert queue.failed_job_registry.count == queue.started_job_registry.count == 0


def test_waking_survives_an_unreachable_redis(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """The row is stored; the sweep pushes the entry later."""
    away = settings.RQ_QUEUES["generations"] | {"URL": "redis://127.0.0.1:1/0"}
    settings.RQ_QUEUES = settings.RQ_QUEUES | {"generations": away}
    worker_wake()
    assert "worker not woken" in caplog.text


def test_the_first_reason_to_stop_counts(make: GenerationMaker) -> None:
    """A cancel that follows a timeout does not change why it ended."""
    run = Run(make(timeout_s=1))
    assert run.should_stop() is None
    run.started -= 2
    assert run.should_stop() == TIMEOUT
    run.stop(CANCELED)
    assert run.should_stop() == TIMEOUT


def test_a_silent_worker_is_not_alive(worker: Worker, owner: User) -> None:
    """And gets no orders."""
    silent = make_worker("silent", memory_free_mb=10**6)
    Worker.objects.filter(pk=silent.pk).update(heartbeat_at=timezone.now() - timedelta(seconds=20))
    assert list(Worker.objects.live()) == [worker]
    checkpoint = Checkpoint.objects.get(id="builtin")
    commands = order_create(kind=CommandKind.LOAD, checkpoint=checkpoint, requested_by=owner, everywhere=True)
    assert [command.worker for command in commands] == [worker]


@pytest.mark.parametrize("log_prompts", [True, False])
def test_an_ended_generation_is_one_log_line(
    make: GenerationMaker,
    worker: Worker,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    log_prompts: bool,  # noqa: FBT001
) -> None:
    """With everything an operator asks for; the prompt only where that is wanted."""
    settings.LOG_PROMPTS = log_prompts
    make(prompt="a secret wish")
    with caplog.at_level(logging.INFO, logger="imagegen.generation"):
        claimed = generation_claim(worker=worker)
        assert claimed is not None
        succeed(claimed)
    (record,) = [record for record in caplog.records if record.name == "imagegen.generation"]
    fields = vars(record)
    assert {
        "job_id",
        "request_id",
        "user",
        "seed",
        "model_id",
        "queue_ms",
        "latency_ms",
        "vram_peak_mb",
        "safety_filter_result",
    } <= set(fields)
    assert fields.get("prompt") == ("a secret wish" if log_prompts else None)
    assert ("prompt_sha256" in fields) is not log_prompts
    json.dumps({key: value for key, value in fields.items() if isinstance(value, str | int | None)})


class Closed:
    """A part of a worker that only has to be ended."""

    def close(self) -> None:
        """Ends it."""

    stop = close


@pytest.mark.django_db
def test_a_worker_that_ends_early_still_hands_its_job_back(settings: Settings, make: GenerationMaker) -> None:
    """Where RQ leaves its loop in the middle of a job, the grace runs on: the job goes back instead of to its end."""
    settings.WORKER_GRACE_S = 0.3
    make()
    runtime: Any = object.__new__(GpuRuntime)
    runtime.worker = make_worker("w1")
    claimed = generation_claim(worker=runtime.worker)
    assert claimed is not None
    run = Run(claimed)
    runtime._easel, runtime.draining = SimpleNamespace(runs=[run], close=lambda: None), threading.Event()
    runtime.engine = runtime.publisher = runtime._control = Closed()
    runtime._clerk, runtime._pipeline = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    steps: list[str | None] = []

    def draw() -> None:
        while len(steps) < 1000 and not (steps and steps[-1]):
            steps.append(run.reason or None)
            time.sleep(0.01)

    runtime._pipeline.submit(draw)
    runtime.drain()
    runtime.close()
    assert steps[-1] == HAND_BACK


def test_a_worker_that_is_started_again_leaves_the_dead_ones_row(make: GenerationMaker) -> None:
    """It no longer looks alive, and the end of what it held names it."""
    lost = make_worker("worker-lost")
    Worker.objects.update(hostname=socket.gethostname(), pid=4_000_000)
    job = make()
    generation_claim(worker=lost)
    runtime: Any = object.__new__(GpuRuntime)
    runtime.engine = SimpleNamespace(device=torch.device("cpu"))
    runtime._register("worker-new")
    assert [worker.name for worker in Worker.objects.live()] == ["worker-new"]
    Generation.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    leases_take_back()
    job.refresh_from_db()
    assert [entry["worker"] for entry in job.attempt_log] == ["worker-lost"]
