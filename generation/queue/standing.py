"""Who is next: higher priorities first, and inside a priority owners take turns.

A new generation gets the turn after its owner's last one, or after the turn that its priority has reached, whichever
is later (start-time fair queueing, Goyal, Vin and Cheng, 1996). So a thousand of one owner's lie on a thousand turns,
another owner's first one joins the next turn, and "the best queued generation" is the first entry of an index.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, F, Q, QuerySet, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone

from generation.choices import Status
from generation.models import PIXEL_STEPS, Generation, Worker
from generation.queue.precedence import QUEUE_ORDER, generations_claimable
from models_registry.choices import DiskState

# How many of a model's latest generations say how fast it is.
SPEED_SAMPLES = 20

_WORK_LEFT = PIXEL_STEPS * (F("total_steps") - F("step")) / F("total_steps")


@dataclass(frozen=True)
class Standing:
    """Where a queued generation stands: 1 is next. `starts_at` is None where nothing measured says it."""

    position: int
    starts_at: datetime | None


def _ahead(generation: Generation) -> QuerySet[Generation]:
    priority, turn = generation.priority, generation.turn
    return Generation.objects.filter(status=Status.QUEUED).filter(
        Q(priority__gt=priority)
        | Q(priority=priority, turn__lt=turn)
        | Q(priority=priority, turn=turn, id__lt=generation.id)
    )


def _ms_per_pixel_step(checkpoint_id: str) -> float | None:
    """How fast a model has been lately; None when it has not drawn anything yet."""
    latest = Generation.objects.filter(
        status=Status.SUCCEEDED, checkpoint=checkpoint_id, latency_ms__isnull=False
    ).order_by("-finished_at")
    # Of what was drawn with others, its share: together they took no longer than one of them.
    measured = latest.values_list(Coalesce("busy_ms", "latency_ms"), PIXEL_STEPS)[:SPEED_SAMPLES]
    busy_ms, work = (sum(column) for column in zip(*measured, strict=True)) if measured else (0, 0)
    return busy_ms / work if work else None


def queue_standing(generation: Generation) -> Standing | None:
    """The place of a queued generation, and when it should start; None once it is not queued any more."""
    if generation.status != Status.QUEUED:
        return None
    ahead = list(
        _ahead(generation)
        .order_by()
        .values("checkpoint_id")
        .annotate(rows=Count("id"), work=Sum(PIXEL_STEPS))
    )
    position = 1 + sum(group["rows"] for group in ahead)
    if generation.checkpoint.state != DiskState.PRESENT:
        return Standing(position, None)
    work: dict[str, int] = {group["checkpoint_id"]: group["work"] for group in ahead}
    running = Generation.objects.filter(status=Status.RUNNING).order_by()
    for group in running.values("checkpoint_id").annotate(work=Sum(_WORK_LEFT)):
        work[group["checkpoint_id"]] = work.get(group["checkpoint_id"], 0) + group["work"]
    wait_ms = _wait_ms(work)
    return Standing(position, None if wait_ms is None else timezone.now() + timedelta(milliseconds=wait_ms))


def _wait_ms(work: dict[str, int]) -> float | None:
    """How long the live workers need for work, by model, as fast as they have been; None where that is unknown."""
    workers = Worker.objects.live().count()
    total = 0.0
    for checkpoint_id, pixel_steps in work.items():
        speed = _ms_per_pixel_step(checkpoint_id)
        if speed is None:
            return None
        total += pixel_steps * speed
    return total / workers if workers else None


def seconds_to_next_start(queued: QuerySet[Generation] | None = None) -> float | None:
    """When the first of these (by default: of all queued generations) should start; None where nobody knows."""
    rows = generations_claimable() if queued is None else queued
    first = rows.select_related("checkpoint").order_by(*QUEUE_ORDER).first()
    standing = queue_standing(first) if first else None
    if standing is None or standing.starts_at is None:
        return None
    return (standing.starts_at - timezone.now()).total_seconds()
