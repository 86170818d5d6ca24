"""Putting right what a crash left behind; safe when many run at once.

Takes back generations whose lease ran out, keeps RQ entries at least as many as rows that wait for a worker or a
download (and not many more), and forgets workers that have been silent for an hour.
"""

import contextlib
import logging
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone
from redis.exceptions import RedisError

from generation.choices import CommandStatus, ErrorCode, Status
from generation.errors import ModelTooLargeError
from generation.metrics.counters import LEASES_EXPIRED, SWEEP_ACTIONS
from generation.models import Generation, Worker, WorkerCommand
from generation.orders import command_finish
from generation.queue.entries import device_classes, queue_length, queue_shorten, workers_wake
from generation.queue.precedence import generations_claimable, unfit_everywhere
from generation.transitions import attempt_log_with, generation_end, generation_requeue
from generation.upkeep.clock import database_clock, times_restamp
from generation.webhooks.outbox import webhooks_restore
from imagegen_project.common.redis import redis_client
from loras.cache import loras_resume
from loras.choices import LoraState
from loras.models import Lora
from loras.services import lora_request
from loras.trials import trials_judge
from models_registry.choices import DiskState
from models_registry.models import Checkpoint
from models_registry.services import checkpoint_request_download, downloads_restore

logger = logging.getLogger(__name__)

SWEEP_EVERY_S = 2.0
# Redis knows that a sweep was done for as long as that, so that one process sweeps for all.
SWEPT_S = 2 * SWEEP_EVERY_S
SWEPT_KEY = "imagegen:swept"
FORGET_WORKER = timedelta(hours=1)
# Entries that may wait beyond the rows; each costs a worker one empty look.
SURPLUS_ENTRIES = 100


def sweep() -> dict[str, int]:
    """One pass over everything; returns what was put right, and how often."""
    done = _lost_take_back() if database_clock.is_steady() else {}
    done |= {
        "generations ended that fit nowhere": unfit_end(),
        "downloads asked for again": downloads_request(),
        "wake-ups for downloads restored": downloads_restore(),
        "LoRA asked for again": loras_resume() + adapters_restore(),
        "wake-ups for generations restored": entries_restore(),
        "wake-ups for webhooks restored": int(webhooks_restore()),
    }
    with contextlib.suppress(RedisError, OSError):
        redis_client().set(SWEPT_KEY, 1, px=int(SWEPT_S * 1000))
    return {what: times for what, times in done.items() if times}


def sweep_where_nobody_does() -> None:
    """Sweeps unless another process has done so just now: for a process that draws, whose steps it would hold up."""
    database_clock.is_steady()  # whoever takes something back has to have looked before the clock was set
    try:
        is_swept = bool(redis_client().exists(SWEPT_KEY))
    except (RedisError, OSError):
        is_swept = False
    if not is_swept:
        sweep()


def _lost_take_back() -> dict[str, int]:
    """What lost workers leave; nobody is taken for one because a clock was set."""
    times_restamp()
    trials_judge(alive=list(Worker.objects.live().values_list("name", flat=True)))
    return {
        "generations taken back from lost workers": len(leases_take_back()),
        "orders to lost workers ended": orders_take_back(),
        "lost workers forgotten": _workers_forget(),
    }


def _workers_forget() -> int:
    silent = Worker.objects.filter(heartbeat_at__lt=Now() - FORGET_WORKER)
    forgotten = silent.count()
    silent.delete()
    if forgotten:
        SWEEP_ACTIONS.add("worker_forgotten", amount=forgotten)
    return forgotten


def unfit_end() -> int:
    """Ends queued generations whose model no live worker can run, since nobody claims them."""
    ended = 0
    queued = Generation.objects.filter(status=Status.QUEUED, checkpoint__state=DiskState.PRESENT)
    pairs = queued.order_by().values_list("checkpoint", "device_class").distinct()
    for checkpoint_id, device_class in pairs:
        unfit = unfit_everywhere(
            checkpoint=Checkpoint.objects.get(pk=checkpoint_id), device_class=device_class
        )
        if unfit:
            too_large = isinstance(unfit, ModelTooLargeError)
            for generation in queued.filter(checkpoint=checkpoint_id, device_class=device_class):
                ended += generation_end(
                    generation=generation,
                    to=Status.FAILED,
                    origins=(Status.QUEUED,),
                    error_code=ErrorCode.OUT_OF_MEMORY if too_large else ErrorCode.MODEL_UNAVAILABLE,
                    error_detail=unfit.detail,
                )
    return ended


def leases_take_back() -> list[UUID]:
    """Ends or requeues running generations whose worker stopped renewing; returns those that were moved."""
    with transaction.atomic():
        expired = Generation.objects.select_for_update(skip_locked=True, of=("self",)).filter(
            status=Status.RUNNING, lease_expires_at__lt=Now()
        )
        rows = expired.select_related("owner", "worker")
        return [generation.id for generation in rows if _take_back(generation)]


def _take_back(generation: Generation) -> bool:
    end = _end_of_lost(generation)
    if end is None:
        to, moved = Status.QUEUED, generation_requeue(generation=generation, reason="worker_lost")
    else:
        to = end.pop("to")
        log = attempt_log_with(generation, "worker_lost")
        moved = generation_end(generation=generation, to=to, fence=generation.attempt, attempt_log=log, **end)
    if moved:
        transaction.on_commit(partial(LEASES_EXPIRED.add, to.value))
        logger.warning(
            "lease taken back", extra={"job_id": str(generation.id), "attempt": generation.attempt}
        )
    return moved


def _end_of_lost(generation: Generation) -> dict[str, Any] | None:
    """How a generation ends whose worker was lost: the status it gets and its columns; None when it runs again."""
    if generation.cancel_requested_at is not None:
        return {"to": Status.CANCELED}
    if _is_overdue(generation):
        detail = f"It ran longer than its timeout_s of {generation.timeout_s} s, and its worker was lost."
        return {"to": Status.FAILED, "error_code": ErrorCode.TIMEOUT, "error_detail": detail}
    if generation.attempt >= settings.MAX_ATTEMPTS:
        detail = f"{generation.attempt} workers in a row were lost while running it."
        return {"to": Status.FAILED, "error_code": ErrorCode.WORKER_LOST, "error_detail": detail}
    return None


def _is_overdue(generation: Generation) -> bool:
    """Whether its last attempt outlasted its limit: a step that hung, which another attempt would do again."""
    started = generation.started_at
    return started is not None and timezone.now() - started > timedelta(seconds=generation.timeout_s)


def adapters_restore() -> int:
    """Asks again for adapters whose files went while queued generations were waiting to use them; returns how many."""
    gone = list(
        Lora.objects.filter(state=LoraState.ABSENT, uses__generation__status=Status.QUEUED).distinct()
    )
    for lora in gone:
        lora_request(lora=lora)
        SWEEP_ACTIONS.add("adapter_requested")
    return len(gone)


def orders_take_back() -> int:
    """Ends orders to workers that are gone, which nobody else will carry out; returns how many."""
    lost = list(
        WorkerCommand.objects.filter(
            status__in=(CommandStatus.PENDING, CommandStatus.RUNNING), worker__in=Worker.objects.silent()
        )
    )
    for command in lost:
        command_finish(command=command, error_code=ErrorCode.WORKER_LOST, detail="The worker was lost.")
        SWEEP_ACTIONS.add("order_ended")
    return len(lost)


def downloads_request() -> int:
    """Asks for checkpoints that queued generations wait for and nobody asked for: they broke or vanished meanwhile.

    Returns how many.
    """
    waited_for = list(
        Checkpoint.objects.filter(
            state__in=(DiskState.ABSENT, DiskState.BROKEN),
            download_requested_at__isnull=True,
            generations__status=Status.QUEUED,
        ).distinct()
    )
    for checkpoint in waited_for:
        checkpoint_request_download(checkpoint=checkpoint)
        SWEEP_ACTIONS.add("download_requested")
    return len(waited_for)


def entries_restore() -> int:
    """Pushes the RQ entries that are missing (a flushed Redis, a crash before the push); returns how many.

    Drops the newest where there are many more than rows: those of jobs that were canceled while no worker lived.
    """
    return sum(_entries_restore(device_class) for device_class in device_classes())


def _entries_restore(device_class: str) -> int:
    queued = generations_claimable(device_class=device_class).count()
    try:
        missing = queued - queue_length(device_class)
        if -missing > SURPLUS_ENTRIES:
            dropped = queue_shorten(device_class, queued + SURPLUS_ENTRIES)
            SWEEP_ACTIONS.add("entries_dropped", amount=dropped)
    except (RedisError, OSError):
        return 0
    if missing > 0:
        logger.info("entries restored", extra={"entries": missing})
        workers_wake(device_class=device_class, entries=missing)
        SWEEP_ACTIONS.add("entries_restored", amount=missing)
    return max(0, missing)
