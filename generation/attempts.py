"""What a GPU worker does to a generation: claim it, keep its lease, end it. Every write is fenced by the attempt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from generation.choices import ErrorCode, Phase, ReplayVerdict, SafetyResult, Status, WorkerStatus
from generation.errors import ImageNotFoundError, StorageUnreadableError
from generation.feed.stream import Publish, event_publish
from generation.models import GeneratedImage, Generation, Worker
from generation.pictures.comparing import Comparison, pictures_compare
from generation.pictures.files import FinishedImage, files_delete, image_read, image_row, images_store
from generation.queue.precedence import QUEUE_ORDER, generations_for
from generation.queue.turns import turn_reached
from generation.transitions import generation_end, generation_ended, generation_requeue, generation_start

# A job on a model that is loaded may overtake this many older ones, and each of them for this long.
LOOK_AHEAD = 16
RESIDENT_FIRST = timedelta(seconds=10)
# A model that loads sooner is loaded wherever there is time for it; both workers look at the queue twice a second.
WORTH_WAITING_S = 2.0
# What is younger is drawn by a worker that has nothing else to do, where there is one.
LEFT_TO_THE_IDLE = timedelta(seconds=1)

# Four times a second, for all rows of a batch: built by the ORM, it kept Python's lock from the pipeline.
_RENEW = """
UPDATE generation_generation AS row
SET lease_expires_at = STATEMENT_TIMESTAMP() + make_interval(secs => %s), step = run.step, worker_phase = run.phase
FROM unnest(%s::uuid[], %s::int[], %s::int[], %s::text[]) AS run (id, attempt, step, phase)
WHERE row.id = run.id AND row.attempt = run.attempt AND row.status = %s
RETURNING row.id, row.attempt, row.cancel_requested_at IS NOT NULL
"""


@dataclass(frozen=True)
class Lease:
    """What a renewal found: whether the attempt is still this worker's, and whether a cancel waits."""

    held: bool
    cancel_requested: bool


class Progress(NamedTuple):
    """How far an attempt is."""

    step: int
    phase: Phase


def lease_end() -> Any:
    """When a lease taken now ends, on the database's clock: hosts' clocks may differ."""
    return Now() + timedelta(seconds=settings.LEASE_S)


def _best_queued(worker: Worker, resident: Sequence[str], warm: Sequence[str]) -> Generation | None:
    mine = generations_for(device_class=worker.device_class, unfit=worker.unfit)
    rows = _with_theirs(mine.select_for_update(skip_locked=True, of=("self",))).order_by(*QUEUE_ORDER)
    first = rows.first()
    if first is None:
        return None
    # The first one's turn, also when another is preferred: those behind it have not had theirs yet.
    turn_reached(priority=first.priority, turn=first.turn)
    waited = timezone.now() - first.created_at
    # Who has nothing loaded loads it: then there are two that have it.
    if not resident or first.checkpoint_id in resident or waited > RESIDENT_FIRST:
        return first
    elsewhere = {} if first.checkpoint_id in warm else _seconds_to_load(beside=worker)
    is_left = waited.total_seconds() < elsewhere.get(first.checkpoint_id, 0)
    equals = mine.filter(priority=first.priority).order_by(*QUEUE_ORDER)
    window = list(equals.values_list("id", flat=True)[:LOOK_AHEAD])
    here = rows.filter(checkpoint_id__in=resident, id__in=window).first()
    if here or not is_left:
        return here or first
    return rows.filter(id__in=window).exclude(checkpoint_id__in=elsewhere).first()


def _with_theirs(rows: QuerySet[Generation]) -> QuerySet[Generation]:
    """With what drawing them asks of their rows."""
    return rows.select_related("checkpoint", "owner")


def _seconds_to_load(*, beside: Worker) -> dict[str, float]:
    """How long the models of the other workers took to load, where leaving a job to them is worth it."""
    others = Worker.objects.live().filter(
        device_class=beside.device_class, status__in=(WorkerStatus.IDLE, WorkerStatus.BUSY)
    )
    return {
        model["id"]: model["load_s"]
        for worker in others.exclude(pk=beside.pk)
        for model in worker.cached_models
        if model["tier"] == "resident" and model.get("load_s", 0) >= WORTH_WAITING_S
    }


def generation_claim(
    *,
    worker: Worker,
    resident: Sequence[str] = (),
    warm: Sequence[str] = (),
    publish: Publish = event_publish,
) -> Generation | None:
    """Takes the best queued generation for this worker, or None; safe when many claim at once.

    That is the first of the highest priority whose files are on this host, and which asks for no other class of
    devices, owners taking turns. As long as it has not waited for long, one of the next few of that priority comes
    before it whose model is `resident` already; and where its own model is on another worker, and not even `warm` here,
    it is left to that one for as long as loading took there, unless this worker has nothing loaded.
    """
    with transaction.atomic():
        queued = _best_queued(worker, resident, warm)
        if queued is None:
            return None
        generation_start(generation=queued, worker=worker, lease_expires_at=lease_end(), publish=publish)
    return queued


def mates_claim(
    *, worker: Worker, of: Generation, pictures: int, publish: Publish = event_publish
) -> list[Generation] | None:
    """Takes queued generations that can be drawn together with one that runs, in their order, up to so many pictures.

    None where the queue's first cannot be, and is of higher priority or has waited for long: whatever else came before
    it would keep it waiting.
    """
    with transaction.atomic():
        mine = generations_for(device_class=worker.device_class, unfit=worker.unfit)
        first = mine.order_by(*QUEUE_ORDER).first()
        if first is None:
            return []
        waited = timezone.now() - first.created_at
        if first.batch_key != of.batch_key and (first.priority > of.priority or waited > RESIDENT_FIRST):
            return None
        equals = mine.filter(priority=first.priority).order_by(*QUEUE_ORDER)
        window = list(equals.values_list("id", flat=True)[: max(LOOK_AHEAD, pictures)])
        mates = Generation.objects.filter(id__in=window, status=Status.QUEUED, batch_key=of.batch_key)
        idle = Worker.objects.live().filter(status=WorkerStatus.IDLE).exclude(pk=worker.pk)
        if idle.exists():
            mates = mates.filter(created_at__lt=timezone.now() - LEFT_TO_THE_IDLE)
        found = _with_theirs(mates.select_for_update(skip_locked=True, of=("self",)))
        taken = []
        for mate in found.order_by(*QUEUE_ORDER)[:pictures]:
            pictures -= mate.num_images
            if pictures < 0:
                break
            generation_start(generation=mate, worker=worker, lease_expires_at=lease_end(), publish=publish)
            taken.append(mate)
        if taken:
            turn_reached(priority=first.priority, turn=first.turn)
    return taken


def attempts_renew(*, progress: Mapping[tuple[UUID, int], Progress]) -> dict[tuple[UUID, int], Lease]:
    """Renews the leases of attempts, each a generation's id and its number, and notes how far they are."""
    if not progress:
        return {}
    ids, numbers = zip(*progress, strict=True)
    steps, phases = zip(*progress.values(), strict=True)
    with connection.cursor() as cursor:
        cursor.execute(
            _RENEW,
            [settings.LEASE_S, list(ids), list(numbers), list(steps), list(phases), Status.RUNNING],
        )
        found = {
            (pk, number): Lease(held=True, cancel_requested=cancel)
            for pk, number, cancel in cursor.fetchall()
        }
    return {each: found.get(each, Lease(held=False, cancel_requested=False)) for each in progress}


def attempt_succeed(
    *,
    generation: Generation,
    images: Sequence[FinishedImage],
    receipt: dict[str, Any],
    latency_ms: int,
    vram_peak_mb: int | None,
    busy_ms: int | None = None,
    safety: SafetyResult = SafetyResult.NOT_CHECKED,
    warnings: list[dict[str, Any]] | None = None,
    publish: Publish = event_publish,
) -> bool:
    """Stores the pictures and ends the generation, all or nothing; False when it was no longer this attempt's.

    The files are written first and named by the attempt, so that a stale attempt can only ever delete its own. When the
    database went away before it said whether it committed, the files stay and calling again tells; what turns out to be
    nobody's is the orphan sweep's. Raises StorageUnavailableError, with nothing left behind; calling again is fine.
    """
    if _ended_before(generation):
        return _ended_unheard(generation, publish)
    names = images_store(generation, images)
    replay = _replay_columns(generation, images)
    moved = False
    try:
        moved = generation_end(
            generation=generation,
            to=Status.SUCCEEDED,
            fence=generation.attempt,
            images=[image_row(generation, image, name) for image, name in zip(images, names, strict=True)],
            publish=publish,
            step=F("total_steps"),
            receipt=receipt,
            latency_ms=latency_ms,
            busy_ms=latency_ms if busy_ms is None else busy_ms,
            vram_peak_mb=vram_peak_mb,
            safety_filter_result=safety,
            warnings=generation.warnings if warnings is None else warnings,
            **replay,
        )
    except (OperationalError, InterfaceError):
        raise
    except BaseException:
        files_delete(names)
        raise
    if moved:
        return True
    # An earlier call's commit has come to light only now: the pictures are the row's.
    if _ended_before(generation):
        return _ended_unheard(generation, publish)
    files_delete(names)
    return False


def _ended_before(generation: Generation) -> bool:
    """Whether this attempt has succeeded already: an earlier call's commit, whose answer was lost."""
    ended = Generation.objects.filter(pk=generation.pk, status=Status.SUCCEEDED, attempt=generation.attempt)
    return ended.exists()


def _ended_unheard(generation: Generation, publish: Publish) -> bool:
    """Tells of a success whose commit nobody heard of, so that nothing has followed it yet."""
    generation.refresh_from_db()
    generation_ended(generation, images=generation.images.all(), publish=publish)
    return True


def _replay_columns(generation: Generation, images: Sequence[FinishedImage]) -> dict[str, Any]:
    """A replay's verdict; nothing where there is nothing left to compare with.

    Another device, number format or instruction set gives almost the same picture: that is `close`, and no mismatch.
    """
    if generation.replay_of_id is None:
        return {}
    rows = list(GeneratedImage.objects.filter(generation=generation.replay_of_id).order_by("index"))
    if [row.pixel_sha256 for row in rows] == [image.pixel_sha256 for image in images]:
        found = Comparison(ReplayVerdict.EXACT, 0)
    else:
        try:
            found = pictures_compare([image_read(row) for row in rows], [image.data for image in images])
        except (ImageNotFoundError, StorageUnreadableError, OSError, ValueError):
            return {}
    match = {ReplayVerdict.EXACT: True, ReplayVerdict.DIFFERENT: False}.get(found.verdict)
    return {
        "replay_verdict": found.verdict,
        "replay_difference": found.largest,
        "pixels_match": match,
    }


def attempt_fail(
    *,
    generation: Generation,
    code: ErrorCode,
    detail: str,
    safety: SafetyResult = SafetyResult.NOT_CHECKED,
    publish: Publish = event_publish,
) -> bool:
    """Ends the generation as failed; False when it was no longer this attempt's."""
    return generation_end(
        generation=generation,
        to=Status.FAILED,
        origins=(Status.RUNNING,),
        fence=generation.attempt,
        publish=publish,
        error_code=code,
        error_detail=detail,
        safety_filter_result=safety,
    )


def attempt_cancel(*, generation: Generation, publish: Publish = event_publish) -> bool:
    """Ends the generation as canceled; False when it was no longer this attempt's."""
    return generation_end(
        generation=generation,
        to=Status.CANCELED,
        origins=(Status.RUNNING,),
        fence=generation.attempt,
        publish=publish,
    )


def attempt_hand_back(*, generation: Generation, publish: Publish = event_publish) -> Status | None:
    """Puts the generation back into the queue, for another worker or a later start, or ends it where a cancel waits.

    Returns what it is then; None when it was no longer this attempt's.
    """
    with transaction.atomic():
        mine = Generation.objects.filter(pk=generation.pk, attempt=generation.attempt, status=Status.RUNNING)
        row = mine.select_for_update().first()
        if row is None:
            return None
        if row.cancel_requested_at is not None:
            return Status.CANCELED if attempt_cancel(generation=generation, publish=publish) else None
        generation_requeue(generation=generation, reason="handed_back", publish=publish)
    return Status.QUEUED
