"""The one way a generation's status changes, and everything that follows a change."""

import hashlib
import logging
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from generation.choices import ACTIVE, ALLOWED_FROM, Status
from generation.metrics.counters import generation_measure
from generation.models import Generation
from generation.queue.limits import work_return
from generation.webhooks.outbox import webhook_note


def generation_move(
    *,
    generation_id: UUID,
    to: Status,
    origins: tuple[Status, ...] = (),
    fence: int | None = None,
    **values: Any,
) -> bool:
    """The one way a status changes: a conditional UPDATE. True when *this* call moved it.

    `origins` narrows where it may come from. `fence` is the attempt the caller acts for: a worker whose lease was
    taken back moves nothing.
    """
    rows = Generation.objects.filter(pk=generation_id, status__in=origins or ALLOWED_FROM[to])
    if fence is not None:
        rows = rows.filter(attempt=fence)
    if to is not Status.RUNNING:
        values["lease_expires_at"] = None
    if to not in ACTIVE:
        values["finished_at"] = Now()
    with transaction.atomic():
        moved = rows.update(status=to, **values) == 1
        if moved:
            webhook_note(generation_id=generation_id, to=to)
        if moved and to in (Status.CANCELED, Status.FAILED):
            work_return(generation_id)
    return moved


logger = logging.getLogger("imagegen.generation")


def generation_log(generation: Generation) -> None:
    """The one log line of an ended generation, and its metrics."""
    generation_measure(generation)
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
