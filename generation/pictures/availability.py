"""Whether the storage takes pictures now, as this process knows it."""

import errno
import logging
import tempfile
import threading
import time
from enum import StrEnum
from pathlib import Path
from typing import Final

from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, default_storage

from generation.errors import StorageUnavailableError
from imagegen_project.common.storage import STORAGE_ERRORS

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 2.0
# A picture or two: a disk with less room than that is full.
PROBE_BYTES: Final = 1 << 20
PROBE_NAME: Final = "probe"


class StorageState(StrEnum):
    """What the storage is for whoever wants to write."""

    OK = "ok"
    FULL = "full"
    READ_ONLY = "read_only"
    UNREACHABLE = "unreachable"


_SAID: Final = {
    StorageState.FULL: "The storage of pictures is full.",
    StorageState.READ_ONLY: "The storage of pictures is read-only.",
    StorageState.UNREACHABLE: "The storage of pictures does not answer or refuses.",
}
_STATES: Final = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), StorageState.FULL),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), StorageState.READ_ONLY),
}


class _Watch:
    """What was seen last, and when."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.state = StorageState.OK
        self.looked_at = float("-inf")

    def note(self, state: StorageState) -> None:
        if state is not self.state and state is StorageState.OK:
            logger.info("storage takes pictures again")
        elif state is not self.state:
            logger.error("storage takes no pictures", extra={"state": state.value})
        self.state, self.looked_at = state, time.monotonic()


_watch = _Watch()


def storage_refused(error: BaseException) -> StorageUnavailableError:
    """Notes that a write failed, and makes the error that says so."""
    state = _state_of(error)
    with _watch.lock:
        _watch.note(state)
    return StorageUnavailableError(_SAID[state], headers={"Retry-After": "30"})


def storage_state() -> StorageState:
    """Whether the storage takes pictures: tried with a real write, at most every two seconds.

    A shared storage is only asked for an answer as long as its last write went well: each write there costs.
    """
    with _watch.lock:
        if time.monotonic() - _watch.looked_at >= LOOK_EVERY_S:
            _watch.note(_look(careful=_watch.state is not StorageState.OK))
        return _watch.state


def _look(*, careful: bool) -> StorageState:
    try:
        if isinstance(default_storage, FileSystemStorage):
            _write_nameless(Path(default_storage.location))
        elif careful:
            default_storage.delete(default_storage.save(PROBE_NAME, ContentFile(bytes(PROBE_BYTES))))
        else:
            default_storage.exists(PROBE_NAME)
    except STORAGE_ERRORS as error:
        return _state_of(error)
    return StorageState.OK


def _write_nameless(folder: Path) -> None:
    """Takes the room for a file that has no name, so that nothing of it can stay behind."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        file.write(bytes(PROBE_BYTES))


def _state_of(error: BaseException) -> StorageState:
    return _STATES.get(getattr(error, "errno", None) or 0, StorageState.UNREACHABLE)
