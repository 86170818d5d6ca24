"""Every change of where a checkpoint's files stand. Writes of a download name its attempt, so a late one is lost."""

import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any, Final

from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Coalesce, Now
from redis.exceptions import RedisError

from imagegen_project.common.queues import DOWNLOADS_QUEUE, entries_push, entries_waiting
from models_registry.choices import BUILTIN_ID, PASSING, DiskState, DownloadProblem
from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_folder, downloadable, downloads_pending
from models_registry.signals import checkpoint_failed, checkpoint_ready

logger = logging.getLogger(__name__)

# By dotted name: only the task worker runs them.
DOWNLOAD_NEXT: Final = "models_registry.downloads.download_next"
CHECK_FILES: Final = "models_registry.downloads.check_files"
QUARANTINE: Final = ".quarantine"


def checkpoint_request_download(*, checkpoint: Checkpoint) -> bool:
    """Asks for a checkpoint that is absent or broken; True when that was not asked before.

    One that is not supported stays so until its row names another source. A task worker hears of it once this is
    committed; when Redis is away, a sweep tells one later.
    """
    wanted = Checkpoint.objects.filter(
        pk=checkpoint.pk, state__in=(DiskState.ABSENT, DiskState.BROKEN), download_requested_at__isnull=True
    ).exclude(error_code=DownloadProblem.UNSUPPORTED)
    asked = wanted.update(download_requested_at=Now()) == 1
    if asked:
        transaction.on_commit(partial(entries_push, DOWNLOADS_QUEUE, DOWNLOAD_NEXT))
    return asked


def checkpoint_make_default(*, checkpoint: Checkpoint) -> None:
    """Makes it the one that is used when a request names no model, in the place of the present one; enables it."""
    with transaction.atomic():
        # In one order, so that two of these cannot wait for each other.
        rows = Checkpoint.objects.select_for_update().order_by("pk")
        former = [row.pk for row in rows.filter(Q(is_default=True) | Q(pk=checkpoint.pk))]
        Checkpoint.objects.filter(pk__in=former).exclude(pk=checkpoint.pk).update(is_default=False)
        Checkpoint.objects.filter(pk=checkpoint.pk).update(is_default=True, enabled=True)


def checkpoint_request_check(*, checkpoint: Checkpoint) -> bool:
    """Has a task worker read a checkpoint's files again; False when Redis cannot be reached."""
    return entries_push(DOWNLOADS_QUEUE, CHECK_FILES, checkpoint.pk)


def downloads_restore() -> int:
    """Pushes the entries that pending downloads lack (a killed process, a flushed Redis); returns how many."""
    pending = downloads_pending().count()
    if not pending:
        return 0
    try:
        missing = pending - entries_waiting(DOWNLOADS_QUEUE)
    except (RedisError, OSError):
        return 0
    if missing > 0:
        logger.info("downloads restored", extra={"entries": missing})
        entries_push(DOWNLOADS_QUEUE, DOWNLOAD_NEXT, entries=missing)
    return max(0, missing)


def download_claim(*, checkpoint: Checkpoint | None = None) -> Checkpoint | None:
    """Takes a checkpoint's download in hand, or the oldest pending one; None when there is none to take."""
    rows = downloads_pending() if checkpoint is None else downloadable().filter(pk=checkpoint.pk)
    with transaction.atomic():
        # Who wants one particular checkpoint waits for whoever only touches its row.
        claimed = rows.select_for_update(skip_locked=checkpoint is None).first()
        if claimed is None:
            return None
        Checkpoint.objects.filter(pk=claimed.pk).update(
            state=DiskState.DOWNLOADING,
            download_attempt=F("download_attempt") + 1,
            download_requested_at=Coalesce("download_requested_at", Now()),
            download_alive_at=Now(),
            error_code="",
            error_detail="",
        )
    claimed.refresh_from_db()
    return claimed


def download_note(*, checkpoint: Checkpoint, **values: Any) -> bool:
    """A download's sign of life, and what it found out; False when the download is no longer this attempt's."""
    return _move(checkpoint, download_alive_at=Now(), **values)


def download_hand_back(*, checkpoint: Checkpoint) -> bool:
    """Leaves a download to whoever comes next: what has arrived stays."""
    return _move(checkpoint, state=DiskState.ABSENT, download_alive_at=None)


def download_succeed(*, checkpoint: Checkpoint, files: dict[str, dict[str, Any]]) -> bool:
    """Notes that the files are in place: path to size and SHA-256."""
    size = sum(entry["size"] for entry in files.values())
    moved = _end(checkpoint, state=DiskState.PRESENT, files=files, size_bytes=size, downloaded_bytes=size)
    if moved:
        logger.info("model present", extra={"model_id": checkpoint.pk, "bytes": size})
        checkpoint_ready.send(sender=Checkpoint, checkpoint=checkpoint)
    return moved


def download_fail(*, checkpoint: Checkpoint, problem: DownloadProblem, detail: str) -> bool:
    """Notes why the files did not come, and tells those who wait.

    Only what another attempt would meet again makes the checkpoint `broken`.
    """
    state = DiskState.ABSENT if problem in PASSING else DiskState.BROKEN
    moved = _end(checkpoint, state=state, error_code=problem, error_detail=detail)
    if moved:
        logger.warning("model failed", extra={"model_id": checkpoint.pk, "reason": detail})
        checkpoint_failed.send(sender=Checkpoint, checkpoint=checkpoint)
    return moved


def _end(checkpoint: Checkpoint, **values: Any) -> bool:
    moved = _move(checkpoint, download_requested_at=None, download_alive_at=None, **values)
    if moved:
        checkpoint.refresh_from_db()
    return moved


def _move(checkpoint: Checkpoint, **values: Any) -> bool:
    """One conditional UPDATE, fenced by the attempt. True when it was still this attempt's."""
    mine = Checkpoint.objects.filter(
        pk=checkpoint.pk, state=DiskState.DOWNLOADING, download_attempt=checkpoint.download_attempt
    )
    return mine.update(**values) == 1


def checkpoint_mark_broken(*, checkpoint_id: str, detail: str) -> bool:
    """Takes a present checkpoint whose files cannot be used out of service; True when this call did.

    Its folder is moved aside, so that nothing loads it again, and those who wait for it are told. The built-in
    model has no other source and stays.
    """
    present = Checkpoint.objects.filter(pk=checkpoint_id, state=DiskState.PRESENT).exclude(pk=BUILTIN_ID)
    if not present.update(
        state=DiskState.BROKEN, error_code=DownloadProblem.UNUSABLE, error_detail=detail, downloaded_bytes=0
    ):
        return False
    checkpoint = Checkpoint.objects.get(pk=checkpoint_id)
    _quarantine(checkpoint_folder(checkpoint))
    logger.error("model broken", extra={"model_id": checkpoint_id, "reason": detail})
    checkpoint_failed.send(sender=Checkpoint, checkpoint=checkpoint)
    return True


def checkpoint_mark_absent(*, checkpoint_id: str) -> bool:
    """Notes that a present checkpoint's folder is gone; True when this call did. The built-in model stays."""
    present = Checkpoint.objects.filter(pk=checkpoint_id, state=DiskState.PRESENT).exclude(pk=BUILTIN_ID)
    return present.update(state=DiskState.ABSENT, downloaded_bytes=0) == 1


def checkpoint_forget_files(*, checkpoint: Checkpoint) -> None:
    """Notes that a checkpoint's source was changed: its files are others now, and a download in hand is void."""
    Checkpoint.objects.filter(pk=checkpoint.pk).exclude(pk=BUILTIN_ID).update(
        state=DiskState.ABSENT,
        files={},
        size_bytes=0,
        downloaded_bytes=0,
        error_code="",
        error_detail="",
        pipeline="",
        distilled=False,
        download_requested_at=None,
        download_alive_at=None,
        download_attempt=F("download_attempt") + 1,
    )


def _quarantine(folder: Path) -> None:
    """Moves a folder aside; an earlier one of the same checkpoint is deleted, so that no disk fills up with them."""
    aside = folder.parent / QUARANTINE
    shutil.rmtree(aside, ignore_errors=True)
    try:
        folder.rename(aside)
    except FileNotFoundError:
        logger.warning("nothing to quarantine", extra={"folder": folder.name})
