"""What one user may ask for, and how much may wait altogether. A limit of 0 is none."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import User
from django.db.models import Sum
from django.utils import timezone

from generation.choices import Status
from generation.errors import QueueFullError, StorageQuotaError, UserQueueFullError, WorkLimitError
from generation.models import GeneratedImage, Generation, WorkEntry
from generation.queue.standing import seconds_to_next_start

# What a refused client is told to wait, in seconds: as long as measured, within these; the first if unknown.
UNKNOWN_WAIT_S = 30
MIN_WAIT_S, MAX_WAIT_S = 1, 600

# For how long it is remembered what a user's pictures took, and by how much the machines' clocks may differ.
REMEMBER_S, CLOCKS_DIFFER_S = 600, 300
_EVER = UUID(int=0)

MEGA = 1_000_000
# What one order to one worker counts: a model's way to a device takes about as long as a picture of 1024 x 1024 pixels
# in 30 steps, and whoever draws with another one waits for it.
ORDER_PIXEL_STEPS = 30 * MEGA
MIB = 1024 * 1024


def owner_lock(owner_id: int) -> None:
    """Lets the creations of one owner follow one another, for the rest of the transaction.

    The row's weaker lock: inserts that refer to the user, and logins, go on.
    """
    list(User.objects.select_for_update(no_key=True).filter(pk=owner_id).values_list("pk"))


@dataclass(frozen=True)
class Limits:
    """What may be used, None where all may: generations that wait, work since a moment, bytes since an id."""

    max_own: int | None = None
    max_queued: int | None = None
    max_work: int | None = None
    work_since: datetime | None = None
    max_bytes: int | None = None
    bytes_since: UUID | None = None

    def values(self) -> dict[str, Any]:
        """By name, for a query."""
        return dict(vars(self))


def limits_now(owner_id: int) -> Limits:
    """The limits of one user. Of bytes, what is left beside those that are remembered."""
    quota, max_work = settings.STORAGE_QUOTA_BYTES, int(settings.WORK_LIMIT * MEGA)
    window, since = _window()
    return Limits(
        max_own=settings.MAX_QUEUED_PER_USER or None,
        max_queued=settings.MAX_QUEUED or None,
        max_work=max_work or None,
        work_since=timezone.now() - timedelta(seconds=settings.WORK_WINDOW_S),
        max_bytes=quota - _bytes_in_window(owner_id, window) if quota else None,
        bytes_since=since,
    )


def limits_check(generation: Generation) -> None:
    """Whether a generation may be stored; the caller holds its owner's lock.

    Raises UserQueueFullError, WorkLimitError, StorageQuotaError or QueueFullError. The server's own limit may be
    exceeded by what several users store at the same moment.
    """
    _check_user_queue(generation.owner_id)
    _check_work(generation.owner_id, generation.pixel_steps)
    _check_storage(generation)
    _check_queue()


def _count(rows_of: int | None, limit: int) -> int:
    """How many generations wait, of one owner or of all; it stops counting at the limit."""
    rows = Generation.objects.filter(status=Status.QUEUED).order_by()
    if rows_of is not None:
        rows = rows.filter(owner_id=rows_of)
    return rows.values("pk")[:limit].count()


def _retry_after(seconds: float | None) -> dict[str, str]:
    wait_s = UNKNOWN_WAIT_S if seconds is None else min(max(math.ceil(seconds), MIN_WAIT_S), MAX_WAIT_S)
    return {"Retry-After": str(wait_s)}


def _check_user_queue(owner_id: int) -> None:
    limit = settings.MAX_QUEUED_PER_USER
    if not limit or _count(owner_id, limit) < limit:
        return
    own = Generation.objects.filter(owner_id=owner_id, status=Status.QUEUED)
    raise UserQueueFullError(
        f"{limit} of your generations are waiting already (MAX_QUEUED_PER_USER). Try again when one has started.",
        headers=_retry_after(seconds_to_next_start(own)),
    )


def _check_queue() -> None:
    limit = settings.MAX_QUEUED
    if limit and _count(None, limit) >= limit:
        raise QueueFullError(
            f"{limit} generations are waiting already (MAX_QUEUED). Try again later.",
            headers=_retry_after(seconds_to_next_start()),
        )


def _check_work(owner_id: int, pixel_steps: int) -> None:
    limit = int(settings.WORK_LIMIT * MEGA)
    if not limit:
        return
    window = timedelta(seconds=settings.WORK_WINDOW_S)
    began = timezone.now() - window
    recent = WorkEntry.objects.filter(owner_id=owner_id, created_at__gt=began)
    used: int = recent.aggregate(used=Sum("pixel_steps"))["used"] or 0
    excess = used + pixel_steps - limit
    if excess <= 0:
        return
    wait_s = float(settings.WORK_WINDOW_S)
    for past, created_at in recent.order_by("created_at").values_list("pixel_steps", "created_at"):
        excess -= past
        if excess <= 0:
            wait_s = (created_at - began).total_seconds()
            break
    raise WorkLimitError(
        f"It asks for {pixel_steps / MEGA:.1f} megapixels x steps; of {settings.WORK_LIMIT:g} in "
        f"{settings.WORK_WINDOW_S} s (WORK_LIMIT) you have used {used / MEGA:.1f}.",
        headers={"Retry-After": str(max(MIN_WAIT_S, math.ceil(wait_s)))},
    )


def bytes_stored(owner_id: int, *, since: UUID = _EVER) -> int:
    """What a user's pictures take, those that they were made from included; of rows from an id on."""
    pictures = GeneratedImage.objects.filter(generation__owner_id=owner_id, id__gte=since)
    inputs = Generation.objects.filter(owner_id=owner_id, id__gte=since, input_bytes__gt=0)
    made: int = pictures.aggregate(total=Sum("size_bytes"))["total"] or 0
    given: int = inputs.aggregate(total=Sum("input_bytes"))["total"] or 0
    return made + given


def _window() -> tuple[int, UUID]:
    """The present stretch of time, and the first id that a row may have which was stored in it.

    What is stored now is at most what was stored at some moment of the stretch, and once more all that may have come
    since it began; only deletions could make it less. So not all rows of a user have to be read each time.
    """
    window = int(time.time() // REMEMBER_S)
    # The first milliseconds of an id of version 7 say when it was made (RFC 9562).
    return window, UUID(int=(window * REMEMBER_S - CLOCKS_DIFFER_S) * 1000 << 80)


@lru_cache(maxsize=4096)
def _bytes_in_window(owner_id: int, _window: int) -> int:
    return bytes_stored(owner_id)


def _check_storage(generation: Generation) -> None:
    quota = settings.STORAGE_QUOTA_BYTES
    stored = bytes_stored(generation.owner_id) if quota else 0
    if quota and stored + generation.input_bytes >= quota:
        raise StorageQuotaError(
            f"Your pictures take {stored / MIB:.1f} of {quota / MIB:g} MiB (STORAGE_QUOTA_MB). Delete some generations."
        )


def limits_left(owner: User) -> dict[str, dict[str, Any]]:
    """What a user has used of each limit and what is left of it: None where there is no limit."""
    window_s = settings.WORK_WINDOW_S
    recent = WorkEntry.objects.filter(
        owner=owner, created_at__gt=timezone.now() - timedelta(seconds=window_s)
    )
    work = (recent.aggregate(used=Sum("pixel_steps"))["used"] or 0) / MEGA
    waiting = Generation.objects.filter(owner=owner, status=Status.QUEUED).count()
    return {
        "work": _left(settings.WORK_LIMIT, work) | {"window_s": window_s},
        "storage": _left(settings.STORAGE_QUOTA_BYTES, bytes_stored(owner.pk)),
        "queued": _left(settings.MAX_QUEUED_PER_USER, waiting),
    }


def _left(limit: float, used: float) -> dict[str, Any]:
    return {"limit": limit or None, "used": used, "left": max(0, limit - used) if limit else None}


def orders_work_note(*, owner: User, command_ids: Sequence[UUID]) -> None:
    """Counts orders to workers towards the user's limit; the caller holds the owner's lock. Raises WorkLimitError."""
    _check_work(owner.pk, ORDER_PIXEL_STEPS * len(command_ids))
    WorkEntry.objects.bulk_create(
        WorkEntry(generation_id=command_id, owner=owner, pixel_steps=ORDER_PIXEL_STEPS)
        for command_id in command_ids
    )


def work_return(generation_id: UUID) -> None:
    """Gives back the work of a generation that ended, if it never started."""
    if Generation.objects.filter(pk=generation_id, attempt=0).exists():
        WorkEntry.objects.filter(generation_id=generation_id).delete()


def work_forget() -> int:
    """Drops what no window counts any more; returns how many entries."""
    past = timezone.now() - timedelta(seconds=settings.WORK_WINDOW_S)
    return WorkEntry.objects.filter(created_at__lte=past).delete()[0]
