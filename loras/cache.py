"""Keeping the adapters' folder within its budget, and free of what crashes left behind."""

import contextlib
import logging
import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from django.conf import settings
from django.contrib.auth.models import User
from django.db.models import Max
from django.db.models.functions import Coalesce, Now

from loras.choices import PENDING, LoraSource, LoraState
from loras.files import (
    FILE_MODE,
    SUFFIX,
    content_path,
    content_release,
    incoming_leftovers,
    lora_lock,
    lora_path,
)
from loras.models import Lora
from loras.selectors import content_pinned, loras_pinned
from loras.services import lora_enqueue, lora_mark_lost, lora_move
from models_registry.weights import file_digests

logger = logging.getLogger(__name__)

# How long a pending adapter is left alone before a task is asked for again.
ASK_AGAIN: Final = timedelta(minutes=1)


@dataclass(frozen=True)
class Pruned:
    """One file that a pruning removes: which adapters had it (none: nobody's), and its bytes."""

    path: Path
    names: tuple[str, ...]
    size_bytes: int


def cache_prune(*, dry_run: bool = False) -> list[Pruned]:
    """Removes files until `LORA_CACHE_MAX_MB` suffices: nobody's first, then the least recently used.

    Never one that is pinned: in use, or uploaded, so that it could not be had again. A pruned adapter is `absent` and
    comes back when it is asked for. Returns what was removed, or would be.
    """
    sizes = {path.stem: path.stat().st_size for path in _content_files()}
    oldest_first = _by_last_use()
    known = [sha256 for sha256 in oldest_first if sha256 in sizes]
    uploads = set(Lora.objects.filter(source=LoraSource.UPLOAD).values_list("sha256", flat=True))
    nobodys = [sha256 for sha256 in sizes if sha256 not in uploads.union(oldest_first)]
    pinned = content_pinned()
    excess = sum(sizes.values()) - settings.LORA_CACHE_MAX_BYTES
    pruned: list[Pruned] = []
    for sha256 in nobodys + [sha256 for sha256 in known if sha256 not in pinned]:
        if sha256 not in nobodys and excess <= 0:
            break
        rows = Lora.objects.filter(sha256=sha256, source=LoraSource.HUB, state=LoraState.PRESENT)
        names = tuple(rows.order_by("name").values_list("name", flat=True))
        if dry_run or _evict(sha256, list(rows)):
            excess -= sizes[sha256]
            pruned.append(Pruned(content_path(sha256), names, sizes[sha256]))
    return pruned


def cache_prune_owner(*, owner: User, excess: int) -> int:
    """Removes files that a user has from the Hub, the least recently used first, until `excess` bytes are gone.

    Never one that is in use. Returns the bytes by which the user's share shrank: another owner may have the same file.
    """
    rows = Lora.objects.filter(owner=owner, source=LoraSource.HUB, state=LoraState.PRESENT)
    gone = 0
    for lora in rows.exclude(pk__in=loras_pinned()).order_by(Coalesce("last_used_at", "created_at"), "id"):
        if gone >= excess:
            break
        if lora_move(lora_id=lora.id, to=LoraState.ABSENT, origins=(LoraState.PRESENT,)):
            gone += lora.size_bytes
            content_release(lora.sha256)
            logger.info("LoRA pruned", extra={"sha256": lora.sha256, "adapters": [lora.name]})
    return gone


def _content_files() -> list[Path]:
    folder = Path(settings.LORA_CACHE_DIR)
    return sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []


def _by_last_use() -> list[str]:
    """The contents that rows need, the least recently used first; what was never used counts from its making."""
    rows = Lora.objects.filter(state=LoraState.PRESENT).exclude(source=LoraSource.BUILTIN)
    used = rows.values("sha256").annotate(used_at=Max(Coalesce("last_used_at", "created_at")))
    return list(used.order_by("used_at", "sha256").values_list("sha256", flat=True))


def _evict(sha256: str, rows: list[Lora]) -> bool:
    for lora in rows:
        lora_move(lora_id=lora.id, to=LoraState.ABSENT, origins=(LoraState.PRESENT,))
    removed = content_release(sha256)
    if removed:
        logger.info("LoRA pruned", extra={"sha256": sha256, "adapters": [lora.name for lora in rows]})
    return removed


def cache_repair() -> None:
    """Puts right what a crash left: partial files go, rows whose file has gone say so, and uploads whose file is back.

    Where every file has gone, the folder is away (not mounted, not restored yet) and the rows stay as they are.
    """
    for path in _content_files():
        with contextlib.suppress(PermissionError):  # somebody else's, who may have meant it
            path.chmod(FILE_MODE)  # an earlier version left them to the umask
    for path in incoming_leftovers():
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    kept = Lora.objects.exclude(source=LoraSource.BUILTIN)
    present = list(kept.filter(state=LoraState.PRESENT))
    lost = [lora for lora in present if not lora_path(lora).is_file()]
    if lost and len(lost) == len(present):
        logger.error("folder of LoRA away", extra={"folder": settings.LORA_CACHE_DIR, "adapters": len(lost)})
        return
    for lora in lost:
        lora_mark_lost(lora=lora)
    for lora in kept.filter(source=LoraSource.UPLOAD, state=LoraState.BROKEN).exclude(sha256=""):
        path = lora_path(lora)
        if path.is_file() and file_digests(path).sha256 == lora.sha256:
            lora_move(lora_id=lora.id, to=LoraState.PRESENT, origins=(LoraState.BROKEN,))


def loras_resume() -> int:
    """Asks again for pending adapters that nobody sees to: the entry was lost, or its worker died. Returns how many."""
    resumed = 0
    for lora in Lora.objects.filter(state__in=PENDING, requested_at__lt=Now() - ASK_AGAIN):
        with lora_lock(lora.id) as idle:
            if idle:
                lora_enqueue(lora=lora)
                resumed += 1
    return resumed
