"""The one way a generation's status changes, and everything that follows a change.

A move is one conditional UPDATE. In its transaction the webhook's message goes into the outbox, and work that never
started is given back. Once it is committed, followers are told; of an end there is one line in the log, and one count.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, cast

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone
from redis.exceptions import RedisError

from generation.choices import ACTIVE, ALLOWED_FROM, Phase, Status
from generation.feed.messages import EventType
from generation.feed.snapshots import image_refs
from generation.feed.stream import Publish, event_begin, event_publish
from generation.metrics.counters import generation_measure
from generation.models import REQUEST_FIELDS, GeneratedImage, Generation, Worker
from generation.queue.entries import worker_wake, worker_wake_with
from generation.queue.limits import work_return
from generation.webhooks.outbox import webhook_note
from imagegen_project.common.redis import redis_client

logger = logging.getLogger("imagegen.generation")


# What a move may change: what was asked for stays as it is, and so do the rows that it refers to, but for the worker's.
_MOVABLE: Final = [
    each.name
    for each in Generation._meta.concrete_fields  # noqa: SLF001 - Django's own interface
    if each.name == "worker" or not (each.primary_key or each.is_relation or each.name in REQUEST_FIELDS)
]


def generation_move(
    *,
    generation: Generation,
    to: Status,
    origins: tuple[Status, ...] = (),
    fence: int | None = None,
    **values: Any,
) -> bool:
    """The one way a status changes: a conditional UPDATE. True when *this* call moved it.

    `origins` narrows where it may come from. `fence` is the attempt the caller acts for: a worker whose lease was
    taken back moves nothing.
    """
    rows = Generation.objects.filter(pk=generation.pk, status__in=origins or ALLOWED_FROM[to])
    if fence is not None:
        rows = rows.filter(attempt=fence)
    if to is not Status.RUNNING:
        values["lease_expires_at"] = None
    if to not in ACTIVE:
        values["finished_at"] = Now()
    with transaction.atomic(savepoint=False):
        moved = rows.update(status=to, **values) == 1
        if moved and generation.webhook_url:
            webhook_note(generation_id=generation.pk, to=to)
        if moved and to in (Status.CANCELED, Status.FAILED):
            work_return(generation.pk)
    return moved


def generation_announce(*, generation: Generation) -> None:
    """Tells of a generation that has just been stored, and wakes a worker for it, in one round trip.

    What is lost while Redis is unreachable, the sweep pushes later.
    """

    def tell() -> None:
        try:
            with redis_client().pipeline(transaction=False) as pipe:
                event_begin(
                    pipe, generation.id, "queued", phase=Phase.QUEUED, total_steps=generation.total_steps
                )
                worker_wake_with(pipe, device_class=generation.device_class)
                pipe.execute()
        except (RedisError, OSError) as error:
            logger.warning("worker not woken", extra={"reason": type(error).__name__})

    _once_committed(tell)


def generation_start(
    *, generation: Generation, worker: Worker, lease_expires_at: Any, publish: Publish = event_publish
) -> bool:
    """Begins the next attempt of a queued generation; True when it moved, and the row is as it is now."""
    waited = timezone.now() - generation.created_at
    moved = generation_move(
        generation=generation,
        to=Status.RUNNING,
        fence=generation.attempt,
        attempt=F("attempt") + 1,
        worker=worker,
        started_at=Now(),
        lease_expires_at=lease_expires_at,
        queue_ms=max(0, int(waited.total_seconds() * 1000)),
        worker_phase=Phase.LOADING,
        step=0,
    )

    def tell() -> None:
        publish(
            generation.id,
            "started",
            attempt=generation.attempt,
            phase=Phase.LOADING,
            worker=worker.name,
            model=generation.checkpoint_id,
            seed=generation.seed,
            total_steps=generation.total_steps,
            warnings=generation.warnings,
        )

    if moved:
        generation.refresh_from_db(fields=_MOVABLE)
        generation.worker = worker
        _once_committed(tell)
    return moved


def generation_requeue(*, generation: Generation, reason: str, publish: Publish = event_publish) -> bool:
    """Puts a running generation back into the queue; False when this attempt was no longer the one that runs."""
    moved = generation_move(
        generation=generation,
        to=Status.QUEUED,
        fence=generation.attempt,
        worker=None,
        step=0,
        attempt_log=attempt_log_with(generation, reason),
    )

    def tell() -> None:
        publish(generation.id, "queued", attempt=generation.attempt, phase=Phase.QUEUED, reason=reason)
        worker_wake(device_class=generation.device_class)

    if moved:
        _once_committed(tell)
    return moved


def generation_end(
    *,
    generation: Generation,
    to: Status,
    origins: tuple[Status, ...] = (),
    fence: int | None = None,
    reason: str = "",
    images: Sequence[GeneratedImage] = (),
    publish: Publish = event_publish,
    **values: Any,
) -> bool:
    """Ends a generation and does all that follows; True when *this* call ended it, and the row is as it is now.

    `origins`, `fence` and `values` are those of `generation_move`; `reason` goes into the event, and `images` are the
    pictures that it ends with, whose rows are stored here.
    """
    with transaction.atomic(savepoint=False):
        moved = generation_move(generation=generation, to=to, origins=origins, fence=fence, **values)
        if moved:
            GeneratedImage.objects.bulk_create(images)
            generation.refresh_from_db(fields=_MOVABLE)
            _once_committed(
                lambda: generation_ended(generation, images=images, reason=reason, publish=publish)
            )
    return moved


def generation_ended(
    generation: Generation,
    *,
    images: Iterable[GeneratedImage],
    reason: str = "",
    publish: Publish = event_publish,
) -> None:
    """Tells of an end that is committed: followers, the log, and the counters."""
    data: dict[str, Any] = {"reason": reason} if reason else {}
    if generation.status == Status.SUCCEEDED:
        data |= {"seed": generation.seed, "images": image_refs(images)}
    elif error := generation.error:
        data |= {"error": error}
    event = cast(EventType, generation.status)  # what an end is called is what its event is called
    publish(generation.id, event, attempt=generation.attempt, **data)
    generation_measure(generation)
    _log(generation)


def attempt_log_with(generation: Generation, reason: str) -> list[dict[str, Any]]:
    """What became of its attempts, with the present one's end."""
    worker = generation.worker.name if generation.worker else ""
    at = timezone.now().isoformat(timespec="milliseconds")
    ended = {"attempt": generation.attempt, "worker": worker, "reason": reason, "at": at}
    return [*generation.attempt_log, ended]


def _once_committed(action: Callable[[], None]) -> None:
    """Runs an action behind the commit. The row is the truth: what fails here is logged, and undoes nothing."""
    transaction.on_commit(action, robust=True)


def _log(generation: Generation) -> None:
    """The one line of an ended generation."""
    prompt = generation.prompt
    shown = (
        {"prompt": prompt}
        if settings.LOG_PROMPTS
        else {"prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest()}
    )
    logger.info(
        "generation ended",
        extra={
            "job_id": str(generation.id),
            "request_id": generation.request_id,
            "user": generation.owner.get_username(),
            "status": generation.status,
            "kind": generation.kind,
            **shown,
            "seed": generation.seed,
            "model_id": generation.checkpoint_id,
            "attempt": generation.attempt,
            "queue_ms": generation.queue_ms,
            "latency_ms": generation.latency_ms,
            "vram_peak_mb": generation.vram_peak_mb,
            "safety_filter_result": generation.safety_filter_result,
            "error_code": generation.error_code,
        },
    )
