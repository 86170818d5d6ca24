"""Reading generations and workers."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.models import AnonymousUser, User
from django.db.models import Case, Exists, OuterRef, Q, QuerySet, When
from django.db.models.functions import Now

from generation.choices import ACTIVE, TERMINAL, CommandKind, CommandStatus, Status
from generation.errors import GenerationNotFoundError, ImageNotFoundError, OrderNotFoundError
from generation.feed.messages import Event, ImageRef
from generation.models import A1111Options, GeneratedImage, Generation, GenerationLora, Worker, WorkerCommand
from loras.choices import PENDING, LoraState
from loras.models import Lora
from models_registry.choices import DiskState
from models_registry.selectors import checkpoints_here

# A worker renews its row every half second; this much silence means that it is gone.
WORKER_ALIVE = timedelta(seconds=15)
# An adapter's state in the words of a feed's status.
_LORA_STATUS = {
    LoraState.ABSENT: Status.QUEUED,
    LoraState.DOWNLOADING: Status.RUNNING,
    LoraState.CHECKING: Status.RUNNING,
    LoraState.PRESENT: Status.SUCCEEDED,
    LoraState.BROKEN: Status.FAILED,
}


def generations_visible(user: User | AnonymousUser) -> QuerySet[Generation]:
    """The generations a user may see: their own; staff see all."""
    rows = Generation.objects.select_related("checkpoint", "owner", "worker").prefetch_related(
        "images", "adapters"
    )
    return rows if user.is_staff else rows.filter(owner_id=user.pk)


def generation_get(*, user: User | AnonymousUser, generation_id: UUID) -> Generation:
    """One generation. Raises GenerationNotFoundError, for somebody else's too."""
    generation = generations_visible(user).filter(pk=generation_id).first()
    if generation is None:
        raise GenerationNotFoundError(f"No generation {generation_id}.")
    return generation


def generations_active(*, owner: User) -> QuerySet[Generation]:
    """What a user has queued or running; what runs comes first, then by age."""
    runs = Case(When(status=Status.RUNNING, then=0), default=1)
    rows = Generation.objects.filter(owner=owner, status__in=ACTIVE).select_related("checkpoint")
    return rows.order_by(runs, "id")


def a1111_options_get(*, owner: User) -> A1111Options:
    """What a user has set through A1111's `options`; the defaults, not stored, where nothing was."""
    rows = A1111Options.objects.select_related("checkpoint")
    return rows.filter(owner=owner).first() or A1111Options(owner=owner)


def image_get(*, user: User | AnonymousUser, generation_id: UUID, index: int) -> GeneratedImage:
    """One picture of a generation. Raises GenerationNotFoundError or ImageNotFoundError."""
    generation = generation_get(user=user, generation_id=generation_id)
    image = next((image for image in generation.images.all() if image.index == index), None)
    if image is None:
        raise ImageNotFoundError(f"The generation is {generation.status} and has no picture {index}.")
    return image


def live_workers() -> QuerySet[Worker]:
    """The GPU workers whose heartbeat is fresh."""
    return Worker.objects.filter(heartbeat_at__gte=Now() - WORKER_ALIVE)


# How queued generations follow one another; `generation/queue/standing.py` deals out the turns.
QUEUE_ORDER = ("-priority", "turn", "id")


def generations_claimable(*, device_class: str | None = None) -> QuerySet[Generation]:
    """The queued generations that could run now: the files of their checkpoint and adapters are there.

    With a `device_class`, those that a worker of that class may run.
    """
    missing = GenerationLora.objects.filter(generation=OuterRef("pk")).exclude(lora__state=LoraState.PRESENT)
    queued = Generation.objects.filter(status=Status.QUEUED, checkpoint__state=DiskState.PRESENT)
    if device_class is not None:
        queued = queued.filter(device_class__in={"", device_class})
    return queued.exclude(Exists(missing))


def generation_next(*, device_class: str | None = None) -> Generation | None:
    """The generation that would be claimed next, without claiming it."""
    rows = generations_claimable(device_class=device_class).filter(checkpoint__in=checkpoints_here())
    return rows.select_related("checkpoint").order_by(*QUEUE_ORDER).first()


def commands_due(worker: Worker) -> QuerySet[WorkerCommand]:
    """The orders a worker can carry out now, oldest first; a load waits until the files are there."""
    coming = Q(checkpoint__state__in=(DiskState.ABSENT, DiskState.DOWNLOADING)) | Q(
        checkpoint__state=DiskState.BROKEN, checkpoint__download_requested_at__isnull=False
    )
    pending = WorkerCommand.objects.filter(worker=worker, status=CommandStatus.PENDING).exclude(
        Q(kind=CommandKind.LOAD) & coming
    )
    waiting = Q(kind=CommandKind.ATTACH, lora__state__in=(LoraState.ABSENT, *PENDING))
    return pending.exclude(waiting).select_related("checkpoint", "lora").order_by("id")


def order_get(*, order_id: UUID) -> list[WorkerCommand]:
    """What one request asked of the workers. Raises OrderNotFoundError."""
    commands = list(
        WorkerCommand.objects.filter(order_id=order_id).select_related("worker", "checkpoint").order_by("id")
    )
    if not commands:
        raise OrderNotFoundError(f"No order {order_id}; the worker it was for may be gone.")
    return commands


def order_url(order_id: UUID) -> str:
    """Where the API serves an order to workers."""
    return f"/api/v1/models/orders/{order_id}"


def generation_url(generation_id: UUID) -> str:
    """Where the API serves a generation."""
    return f"/api/v1/generations/{generation_id}"


def image_url(image: GeneratedImage) -> str:
    """Where the API serves a picture."""
    return f"{generation_url(image.generation_id)}/images/{image.index}"


def image_refs(images: Iterable[GeneratedImage]) -> list[ImageRef]:
    """Finished pictures as events carry them."""
    return [
        {
            "index": image.index,
            "seed": image.seed,
            "width": image.width,
            "height": image.height,
            "sha256": image.sha256,
            "url": image_url(image),
        }
        for image in images
    ]


def error_of(generation: Generation) -> dict[str, Any] | None:
    """A failed generation's error as clients see it."""
    if not generation.error_code:
        return None
    return {"code": generation.error_code, "detail": generation.error_detail}


def feed_snapshots(ids: Iterable[UUID]) -> dict[UUID, Event]:
    """The present state of generations, orders and adapters as feed events (without sequence numbers)."""
    wanted = list(ids)
    rows = Generation.objects.filter(pk__in=wanted).prefetch_related("images")
    commands = WorkerCommand.objects.filter(pk__in=wanted)
    loras = Lora.objects.filter(pk__in=wanted)
    return (
        {row.id: _snapshot(row) for row in rows}
        | {row.id: _bare_snapshot(row.id, row.status, row.finished_at or row.created_at) for row in commands}
        | {
            row.id: _bare_snapshot(row.id, _LORA_STATUS[LoraState(row.state)], row.updated_at)
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
        "step": row.step,
        "total_steps": row.total_steps,
        "percent": round(100 * row.step / row.total_steps, 1),
        "seed": row.seed,
        "model": row.checkpoint_id,
        "warnings": row.warnings,
    }
    if row.status in TERMINAL:
        event["images"] = image_refs(row.images.all())
    if error := error_of(row):
        event["error"] = error
    return event
