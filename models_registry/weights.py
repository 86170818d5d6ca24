"""Verifying files on disk: digests, and the headers of safetensors files. Reads no tensor into memory."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imagegen_project.common.safetensors_header import HeaderError, read_header
from models_registry.choices import DownloadProblem
from models_registry.errors import DownloadFailedError

_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class Digests:
    """What a file is: bytes, SHA-256, and the SHA-1 that git gives its content."""

    size: int
    sha256: str
    git_sha1: str


def file_digests(path: Path) -> Digests:
    """Reads a file once and digests it."""
    size = path.stat().st_size
    sha256 = hashlib.sha256()
    git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
            git.update(chunk)
    return Digests(size, sha256.hexdigest(), git.hexdigest())


def header_verify(path: Path) -> None:
    """Checks that a safetensors file's header is sound and describes exactly the bytes behind it.

    Raises DownloadFailedError.
    """
    try:
        with path.open("rb") as file:
            read_header(file, size=path.stat().st_size)
    except HeaderError as error:
        raise DownloadFailedError(
            DownloadProblem.BAD_HEADER,
            f"{path.parent.name}/{path.name} is not a sound safetensors file: {error.reason}.",
        ) from error
