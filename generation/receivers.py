"""What becomes of generations, and their feeds, when a checkpoint arrives or does not."""

import logging
from collections.abc import Iterator
from typing import Any

from django.db import transaction
from django.dispatch import receiver

from generation.attempts import generation_log
from generation.choices import ErrorCode, Status
from generation.events import event_publish
from generation.models import Generation
from generation.queueing import worker_wake
from generation.services import generation_move
from models_registry.models import Checkpoint
from models_registry.signals import checkpoint_failed, checkpoint_progress, checkpoint_ready

logger = logging.getLogger(__name__)


def _waiting(checkpoint: Checkpoint) -> Iterator[Generation]:
    rows = Generation.objects.filter(status=Status.QUEUED, checkpoint=checkpoint)
    return rows.select_related("owner").order_by("id").iterator()


@receiver(checkpoint_progress)
def downloading(*, checkpoint: Checkpoint, **kwargs: Any) -> None:
    """Tells the followers of every generation that waits for the checkpoint how much of it has arrived."""
    for generation in _waiting(checkpoint):
        event_publish(
            generation.id,
            "downloading",
            attempt=generation.attempt,
            model=checkpoint.pk,
            percent=checkpoint.percent,
            downloaded_bytes=checkpoint.downloaded_bytes,
            total_bytes=checkpoint.size_bytes,
        )


@receiver(checkpoint_ready)
def arrived(*, checkpoint: Checkpoint, **kwargs: Any) -> None:
    """Wakes workers for those that waited."""
    waiting = Generation.objects.filter(status=Status.QUEUED, checkpoint=checkpoint).count()
    worker_wake(entries=waiting)


@receiver(checkpoint_failed)
def failed(*, checkpoint: Checkpoint, **kwargs: Any) -> None:
    """Ends those that waited: nobody could say when a later attempt would succeed."""
    for generation in _waiting(checkpoint):
        with transaction.atomic():
            moved = generation_move(
                generation_id=generation.id,
                to=Status.FAILED,
                origins=(Status.QUEUED,),
                fence=generation.attempt,
                error_code=ErrorCode.MODEL_UNAVAILABLE,
                error_detail=checkpoint.error_detail,
            )
        if moved:
            generation.refresh_from_db()
            error = {"code": ErrorCode.MODEL_UNAVAILABLE.value, "detail": checkpoint.error_detail}
            event_publish(generation.id, "failed", attempt=generation.attempt, error=error)
            generation_log(generation)
