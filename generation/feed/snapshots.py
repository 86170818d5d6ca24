"""The present state of what a feed is about, as events."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from generation.choices import TERMINAL, Status
from generation.feed.messages import Event, ImageRef
from generation.models import GeneratedImage, Generation, WorkerCommand
from loras.choices import LoraState
from loras.models import Lora

# An adapter's state in the words of a feed's status.
_LORA_STATUS = {
    LoraState.ABSENT: Status.QUEUED,
    LoraState.DOWNLOADING: Status.RUNNING,
    LoraState.CHECKING: Status.RUNNING,
    LoraState.PRESENT: Status.SUCCEEDED,
    LoraState.BROKEN: Status.FAILED,
}


def image_refs(images: Iterable[GeneratedImage]) -> list[ImageRef]:
    """Finished pictures as events carry them."""
    return [
        {
            "index": image.index,
            "seed": image.seed,
            "width": image.width,
            "height": image.height,
            "sha256": image.sha256,
            "url": image.get_absolute_url(),
        }
        for image in images
    ]


def feed_snapshots(ids: Iterable[UUID]) -> dict[UUID, Event]:
    """The present state of generations, orders and adapters as feed events (without sequence numbers)."""
    wanted = list(ids)
    rows = Generation.objects.filter(pk__in=wanted).select_related("checkpoint").prefetch_related("images")
    commands = WorkerCommand.objects.filter(pk__in=wanted)
    loras = Lora.objects.filter(pk__in=wanted)
    return (
        {row.id: _snapshot(row) for row in rows}
        | {row.id: _bare_snapshot(row.id, row.status, row.finished_at or row.created_at) for row in commands}
        | {
            row.id: _bare_snapshot(
                row.id,
                Status.FAILED if row.error_code else _LORA_STATUS[LoraState(row.state)],
                row.updated_at,
            )
            for row in loras
        }
    )


def _bare_snapshot(pk: UUID, status: str, at: datetime) -> Event:
    return {
        "type": "snapshot",
        "seq": 0,
        "prev": 0,
        "job_id": str(pk),
        "at": at.isoformat(timespec="milliseconds"),
        "attempt": 0,
        "status": status,
    }


def _snapshot(row: Generation) -> Event:
    event: Event = {
        "type": "snapshot",
        "seq": 0,
        "prev": 0,
        "job_id": str(row.id),
        "at": (row.finished_at or row.started_at or row.created_at).isoformat(timespec="milliseconds"),
        "attempt": row.attempt,
        "status": row.status,
        "phase": row.phase,
        "step": row.step,
        "total_steps": row.total_steps,
        "percent": round(100 * row.step / row.total_steps, 1),
        "seed": row.seed,
        "model": row.checkpoint_id,
        "warnings": row.warnings,
    }
    if row.status in TERMINAL:
        event["images"] = image_refs(row.images.all())
    if error := row.error:
        event["error"] = error
    return event
