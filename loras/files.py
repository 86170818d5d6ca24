"""Adapters' files on disk: named by their SHA-256, put in place by one rename, removed when no row needs them.

`incoming/` holds what has not been checked yet, named by the row's id. Whoever writes there holds a file lock, which
the kernel drops with the process, so that leftovers can be told from what is under way.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.db import connection, transaction

from loras.choices import PENDING, LoraSource, LoraState
from loras.models import Lora
from models_registry import builtin

SUFFIX: Final = ".safetensors"
# Adapters may be private: they are for this service's user and group alone, whatever the umask.
FILE_MODE: Final = 0o640
FOLDER_MODE: Final = 0o750
# Taken to put a content file in place or to remove one.
_FILES_LOCK: Final = b"loras.files"


def content_path(sha256: str) -> Path:
    """Where a file with these contents lies."""
    return Path(settings.LORA_CACHE_DIR) / f"{sha256}{SUFFIX}"


def lora_path(lora: Lora) -> Path:
    """Where the adapter's file lies; it is there while the row is `present`."""
    if lora.source == LoraSource.BUILTIN:
        return builtin.ADAPTERS / lora.weight_name
    return content_path(lora.sha256)


def incoming_path(lora_id: UUID) -> Path:
    """Where the adapter's file waits to be checked."""
    return incoming_folder() / f"{lora_id}.part"


def incoming_folder() -> Path:
    """The folder of unchecked files; made when it is missing."""
    folder = Path(settings.LORA_CACHE_DIR) / "incoming"
    for path in (folder.parent, folder):
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(FOLDER_MODE)
    return folder


@contextmanager
def being_written(path: Path) -> Iterator[None]:
    """Creates an empty file and keeps it from being taken for a leftover."""
    with path.open("xb") as file:
        path.chmod(FILE_MODE)
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def upload_copy(file: "UploadedFile[Any]", path: Path) -> None:
    """Copies an upload; one that lies on disk is copied by the kernel, so its bytes do not pass through here."""
    try:
        source = file.temporary_file_path()  # type: ignore[attr-defined]  # only uploads on disk have it
    except AttributeError:
        file.seek(0)
        with path.open("wb") as target:
            shutil.copyfileobj(file, target)
    else:
        shutil.copyfile(source, path)


def lock_key(name: bytes) -> int:
    """The number under which PostgreSQL keeps an advisory lock of this name."""
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "big", signed=True)


@contextmanager
def files_lock() -> Iterator[None]:
    """A transaction in which nobody else puts content files in place or removes them."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [lock_key(_FILES_LOCK)])
        yield


def lora_lock(lora_id: UUID) -> AbstractContextManager[bool]:
    """Whether nobody else has the adapter in hand, which is then kept so; ends with the process at the latest."""
    return advisory_lock(lora_id.bytes)


@contextmanager
def advisory_lock(name: bytes) -> Iterator[bool]:
    """Whether nobody else holds the lock of this name, which is then kept; ends with the process at the latest."""
    key = lock_key(name)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [key])
        (mine,) = cursor.fetchone()
    try:
        yield mine
    finally:
        if mine:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [key])


def content_place(path: Path, sha256: str) -> None:
    """Gives a checked file its final name, durably. Called inside `files_lock`, with the row that will need it.

    `path` stays until the row is committed, so that a crash in between loses nothing.
    """
    with path.open("rb") as file:
        os.fchmod(file.fileno(), FILE_MODE)
        os.fsync(file.fileno())
    target = content_path(sha256)
    fresh = target.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fresh.hardlink_to(path)
    fresh.replace(target)
    fresh.unlink(missing_ok=True)  # a rename onto another name of the same file does nothing


def content_release(sha256: str) -> bool:
    """Removes the content file unless a row needs it; whether it was removed. Called after the row's change."""
    with files_lock():
        needed = Lora.objects.filter(sha256=sha256, state=LoraState.PRESENT).exclude(
            source=LoraSource.BUILTIN
        )
        if not sha256 or needed.exists():
            return False
        path = content_path(sha256)
        existed = path.exists()
        path.unlink(missing_ok=True)
        return existed


def incoming_leftovers() -> list[Path]:
    """Files in `incoming/` that nobody writes and no pending row waits for."""
    # First the locks, then the rows: a lock is let go after its row is committed.
    idle = [path for path in incoming_folder().iterdir() if not _is_written(path)]
    waiting = {str(pk) for pk in Lora.objects.filter(state__in=PENDING).values_list("pk", flat=True)}
    return [path for path in idle if path.stem not in waiting]


def _is_written(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
