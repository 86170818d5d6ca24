"""Reading the registry."""

import hashlib
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from models_registry import builtin
from models_registry.choices import BUILTIN_ID, DiskState, DownloadProblem
from models_registry.errors import ModelNotEnabledError, ModelNotFoundError, ModelUnsupportedError
from models_registry.models import Checkpoint

# A download gives a sign of life every few seconds; this much silence means that its process is gone.
DOWNLOAD_ALIVE = timedelta(seconds=30)
HASH_CHARACTERS = 10


def checkpoints_enabled() -> QuerySet[Checkpoint]:
    """The checkpoints that requests may name."""
    return Checkpoint.objects.filter(enabled=True)


def checkpoints_called(name: Any) -> QuerySet[Checkpoint]:
    """Those with this registry id or repository name, enabled or not."""
    return Checkpoint.objects.filter(Q(id=name) | Q(repository=name))


def checkpoints_by_default() -> QuerySet[Checkpoint]:
    """The enabled checkpoints that may run when a request names no model, the first choice first."""
    return checkpoints_enabled().filter(Q(is_default=True) | Q(id=BUILTIN_ID)).order_by("-is_default")


def checkpoint_get(*, name: str) -> Checkpoint:
    """The enabled one of this registry id or repository name. Raises ModelNotFoundError, ModelNotEnabledError."""
    called = checkpoints_called(name)
    if checkpoint := called.filter(enabled=True).first():
        return checkpoint
    if called.filter(enabled=False).exists():
        raise ModelNotEnabledError(
            f"{name} is not enabled here: staff can enable it in the admin.", param="model"
        )
    known = ", ".join(checkpoints_enabled().values_list("id", flat=True))
    raise ModelNotFoundError(f"No model is called {name!r} here. Known: {known}.", param="model")


def checkpoint_default() -> Checkpoint:
    """What runs when a request names no model: `DEFAULT_MODEL_ID`, else the default row, else the built-in one.

    Raises ModelNotFoundError when `DEFAULT_MODEL_ID` names nothing.
    """
    if settings.DEFAULT_MODEL_ID:
        return checkpoint_get(name=settings.DEFAULT_MODEL_ID)
    return checkpoints_by_default().first() or checkpoint_get(name=BUILTIN_ID)


def checkpoint_default_id() -> str | None:
    """The id of what runs when a request names no model; None where `DEFAULT_MODEL_ID` names nothing."""
    try:
        return checkpoint_default().id
    except ModelNotFoundError:
        return None


def checkpoint_check_supported(checkpoint: Checkpoint) -> None:
    """Raises ModelUnsupportedError where a look at the checkpoint's repository has shown that it cannot be used."""
    if checkpoint.state == DiskState.BROKEN and checkpoint.error_code == DownloadProblem.UNSUPPORTED:
        raise ModelUnsupportedError(f"{checkpoint.id}: {checkpoint.error_detail}", param="model")


def checkpoint_folder(checkpoint: Checkpoint) -> Path:
    """Where the checkpoint's weights lie on this host, in diffusers' layout: a folder for each commit."""
    cache = Path(settings.MODEL_CACHE_DIR)
    if checkpoint.is_builtin:
        return builtin.WEIGHTS
    return cache / checkpoint.id / (checkpoint.revision or "unpinned")


def checkpoint_hash(checkpoint: Checkpoint) -> str:
    """Ten hexadecimal digits that stand for a checkpoint in short: of its commit, for the built-in one of its weights.

    Empty for one that was never downloaded.
    """
    if checkpoint.is_builtin:
        return _builtin_hash()
    return checkpoint.revision[:HASH_CHARACTERS]


@cache
def _builtin_hash() -> str:
    with (builtin.WEIGHTS / "unet" / "diffusion_pytorch_model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:HASH_CHARACTERS]


def checkpoint_is_here(checkpoint: Checkpoint) -> bool:
    """Whether this host has the checkpoint's files; the row says whether any host has."""
    return checkpoint.state == DiskState.PRESENT and checkpoint_folder(checkpoint).is_dir()


def checkpoints_on_host() -> list[Checkpoint]:
    """The present checkpoints whose files this host has."""
    return [row for row in Checkpoint.objects.filter(state=DiskState.PRESENT) if checkpoint_is_here(row)]


def checkpoints_here() -> list[str]:
    """Their ids."""
    return [row.pk for row in checkpoints_on_host()]


def safety_classifier_folder() -> Path | None:
    """Where the classifier of `SAFETY_MODEL` lies; None when the filter is off or no classifier is named."""
    if settings.SAFETY_FILTER == "off" or not settings.SAFETY_MODEL:
        return None
    return Path(settings.MODEL_CACHE_DIR) / "safety" / settings.SAFETY_MODEL.replace("/", "--")


def downloads_pending() -> QuerySet[Checkpoint]:
    """Checkpoints that were asked for and that nobody is downloading, the oldest wish first."""
    return downloadable().filter(download_requested_at__isnull=False).order_by("download_requested_at", "id")


def downloadable() -> QuerySet[Checkpoint]:
    """Checkpoints that are not on disk, less those whose download shows signs of life."""
    silent = Q(download_alive_at__isnull=True) | Q(download_alive_at__lt=Now() - DOWNLOAD_ALIVE)
    return Checkpoint.objects.filter(
        Q(state__in=(DiskState.ABSENT, DiskState.BROKEN)) | (Q(state=DiskState.DOWNLOADING) & silent)
    )
