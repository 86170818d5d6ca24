"""The storage of pictures on a local disk, and what any storage raises when it does not serve."""

import errno
import os
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError
from django.core.files.storage import FileSystemStorage
from django.utils.deconstruct import deconstructible

# A disk's errors, and those of an S3 server or of the way to it. A lost file is FileNotFoundError, an OSError too.
STORAGE_ERRORS: Final = (OSError, BotoCoreError, ClientError)
# What is written beside its place until it is whole; one that a killed process left is an orphan like any other.
UNFINISHED_SUFFIX: Final = ".part"
# Filesystems without folders that can be synced say one of these.
_CANNOT_SYNC: Final = {errno.EINVAL, errno.ENOTSUP}


@deconstructible(path="imagegen_project.common.storage.DurableFileSystemStorage")
class DurableFileSystemStorage(FileSystemStorage):
    """Files that are whole or not there, and that outlast a power cut once `save` has returned.

    A file is written beside its place, synced, and renamed; then its folder is synced, and those above it that are new.
    What fails leaves nothing behind. A file of the same name is replaced.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_overwrite": True, **kwargs})

    def _save(self, name: str, content: Any) -> str:
        path = Path(self.path(name))
        changed = _folders_make(path.parent)
        unfinished = path.with_name(path.name + UNFINISHED_SUFFIX)
        try:
            with unfinished.open("wb") as file:
                for chunk in content.chunks():
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            if self.file_permissions_mode is not None:
                unfinished.chmod(self.file_permissions_mode)
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        for folder in (path.parent, *changed):
            _folder_sync(folder)
        return name


def _folders_make(folder: Path) -> list[Path]:
    """Makes a folder and those above it; returns the folders that have got a new one in them, the lowest first."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
    return [new.parent for new in missing]


def _folder_sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)
