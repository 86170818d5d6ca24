"""The Hugging Face Hub as a source of files, through `huggingface_hub`: what a repository holds, and one file of it.

Whatever goes wrong is a DownloadFailedError with a sentence. Only the server's own token is ever sent.
"""

import io
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx2
from django.conf import settings
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # lazily exported
from tqdm import tqdm

from models_registry.choices import DownloadProblem
from models_registry.errors import DownloadFailedError, disk_failed
from models_registry.models import COMMIT_PATTERN
from models_registry.pace import Pace, paced
from models_registry.selection import RemoteFile
from models_registry.weights import file_digests, header_verify

logger = logging.getLogger(__name__)
# Its own handler would write plain lines beside the log's, and every message twice.
logging.getLogger("huggingface_hub").handlers.clear()

INFO_TIMEOUT_S: Final = 10
INFO_LIMIT_S: Final = 60
SLACK_S: Final = 600
MAX_INFO_BYTES: Final = 32 << 20
MAX_PATH_CHARACTERS: Final = 1024
# Waits before a question is asked again where the Hub had a fault of its own; silence is retried by the client.
PAUSES_S = (1.0, 4.0)
# A megabyte between two looks at the progress, and lost at most when the process is killed; by default it is ten.
CHUNK_BYTES: Final = 1 << 20

# What the Hub's answer makes the library raise, whatever it says.
_FAILURES: Final = (
    httpx2.HTTPError,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RecursionError,
)

_LICENCE_TAG: Final = "license:"

T = TypeVar("T")


@dataclass(frozen=True)
class Repository:
    """What a repository holds at one commit; `gated` says whether its licence must be accepted."""

    name: str
    commit: str
    gated: bool
    files: dict[str, RemoteFile]
    licence: str = ""


def repository_read(*, name: str, revision: str = "") -> Repository:
    """Asks for a repository's files, at a commit or at the newest. Raises DownloadFailedError."""

    def listed() -> tuple[Any, list[RemoteFile]]:
        info = HfApi(endpoint=settings.HF_ENDPOINT).model_info(
            name,
            revision=revision or None,
            files_metadata=True,
            timeout=INFO_TIMEOUT_S,
            token=settings.HF_TOKEN or False,
        )
        return info, [_remote_file(sibling) for sibling in info.siblings or []]

    info, files = _ask(Pace(name, limit_s=INFO_LIMIT_S, limit_bytes=MAX_INFO_BYTES), listed)
    commit = info.sha or ""
    if not isinstance(commit, str) or not re.fullmatch(COMMIT_PATTERN, commit):
        raise DownloadFailedError(DownloadProblem.HUB_ERROR, f"The Hub names no commit of {name}.")
    listed_files = {file.path: file for file in files}
    return Repository(name, commit, bool(info.gated), listed_files, _licence(info.tags))


def _licence(tags: Any) -> str:
    """What the Hub's page calls the licence; "" where it says none."""
    named = [tag for tag in tags or [] if isinstance(tag, str) and tag.startswith(_LICENCE_TAG)]
    return named[0].removeprefix(_LICENCE_TAG)[:64] if named else ""


def _remote_file(sibling: Any) -> RemoteFile:
    """One entry of a listing, which the library hands on as it came. Raises ValueError where it is none."""
    path, size = sibling.rfilename, sibling.size or 0
    sha256, git_sha1 = sibling.lfs.sha256 if sibling.lfs else "", sibling.blob_id or ""
    if not isinstance(path, str) or not path.isprintable() or not 0 < len(path) <= MAX_PATH_CHARACTERS:
        raise ValueError("a file without a name")
    if type(size) is not int or size < 0 or not _is_digest(sha256, 64) or not _is_digest(git_sha1, 40):
        raise ValueError("a file without a size or a checksum")
    return RemoteFile(path, size, sha256, git_sha1)


def _is_digest(value: Any, digits: int) -> bool:
    return value == "" or (isinstance(value, str) and bool(re.fullmatch(rf"[0-9a-f]{{{digits}}}", value)))


def file_fetch(
    *,
    repository: Repository,
    file: RemoteFile,
    target: Path,
    on_size: Callable[[int], None],
    limit_s: float = 0,
) -> str:
    """Downloads one file to `target`, verifies it and returns its SHA-256; `target` appears whole or not at all.

    It must come at `DOWNLOAD_MIN_KB_S` at least, and within `limit_s` seconds (0: no limit).
    What an interrupted download left beside it (`.part`) is continued. `on_size` is called with the bytes that are
    there, and may raise to stop. Raises DownloadFailedError.
    """
    part = target.with_name(f"{target.name}.part")
    if part.exists() and part.stat().st_size > file.size:
        part.unlink()
    target.parent.mkdir(parents=True, exist_ok=True)
    slowest = settings.DOWNLOAD_MIN_KB_S * 1000
    # Also a source that sends a little and breaks off, again and again, has an end.
    longest = file.size / slowest + SLACK_S if slowest else 0
    limits = [limit for limit in (limit_s, longest) if limit]
    pace = Pace(repository.name, min_bytes_s=slowest, limit_s=min(limits, default=0))
    _ask(pace, lambda: _stream(repository, file, part, on_size))
    try:
        sha256 = file_verify(part, file)
    except DownloadFailedError:
        part.unlink()
        raise
    part.rename(target)
    return sha256


def file_verify(path: Path, file: RemoteFile) -> str:
    """The SHA-256 of a downloaded file, once it is what the Hub says it is. Raises DownloadFailedError."""
    found = file_digests(path)
    if found.size != file.size:
        raise DownloadFailedError(
            DownloadProblem.TRUNCATED, f"{file.path} has {found.size} bytes instead of {file.size}."
        )
    as_stated = found.sha256 == file.sha256 if file.sha256 else found.git_sha1 == file.git_sha1
    if not as_stated:
        raise DownloadFailedError(
            DownloadProblem.CHECKSUM_MISMATCH, f"{file.path} arrived damaged: its checksum is not the Hub's."
        )
    if file.path.endswith(".safetensors"):
        header_verify(path)
    return found.sha256


def _private(path: str, flags: int) -> int:
    """Opens a file that only this service's user and group may read: a repository may be private or gated."""
    return os.open(path, flags, 0o640)


class _PartFile(io.FileIO):
    """A file that grows, says so, and ends where it should."""

    def __init__(self, path: Path, file: RemoteFile, on_size: Callable[[int], None]) -> None:
        super().__init__(path, "ab", opener=_private)
        self._file = file
        self._on_size = on_size

    def write(self, data: Any) -> int:
        """Writes all of it: an unbuffered write may take less than it is given."""
        rest = memoryview(data)
        while rest:
            rest = rest[super().write(rest) or 0 :]
        if self.tell() > self._file.size:
            raise DownloadFailedError(
                DownloadProblem.CHECKSUM_MISMATCH, f"{self._file.path} is longer than the Hub stated."
            )
        self._on_size(self.tell())
        return len(data)


def _stream(repository: Repository, file: RemoteFile, part: Path, on_size: Callable[[int], None]) -> None:
    url = hf_hub_url(repository.name, file.path, revision=repository.commit, endpoint=settings.HF_ENDPOINT)
    headers = build_hf_headers(token=settings.HF_TOKEN or False)
    # Sizes are those of the file itself, and a compressed answer could not be continued.
    headers["Accept-Encoding"] = "identity"
    with _PartFile(part, file, on_size) as opened:
        on_size(opened.tell())
        http_get(
            url,
            opened,
            resume_size=opened.tell(),
            headers=headers,
            expected_size=file.size,
            tqdm_class=partial(tqdm, disable=True),  # type: ignore[arg-type]  # called like the class
        )
        os.fsync(opened.fileno())  # its name will say that it is whole, also after a power cut


def _ask(pace: Pace, question: Callable[[], T]) -> T:
    """Asks the Hub, again where it had a fault of its own. Raises DownloadFailedError."""
    repository = pace.name
    # The user agent's detection of agents would first fetch a list from the Hub, and write a file.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES
    for pause in (*PAUSES_S, None):
        try:
            with paced(pace):
                return question()
        except _FAILURES as error:
            if pause is None or not _may_pass(error):
                failed = _refused if isinstance(error, HfHubHTTPError) else _failed
                raise failed(repository, error) from error
            logger.warning("hub failed", extra={"repository": repository, "reason": type(error).__name__})
            time.sleep(pause)
    raise AssertionError  # the last pause is None, and that round returns or raises


def _may_pass(error: Exception) -> bool:
    """Whether a fault is the Hub's own, or a broken connection."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= httpx2.codes.INTERNAL_SERVER_ERROR
    return isinstance(error, httpx2.ReadError)


def _refused(repository: str, error: Any) -> DownloadFailedError:
    """What an HTTP error means."""
    status = error.response.status_code
    page = f"{settings.HF_ENDPOINT}/{repository}"
    match status:
        case 401 | 403:
            problem = DownloadProblem.UNAUTHORIZED
            detail = (
                f"The Hub does not let this server read {repository} (HTTP {status}): it is private, gated or not"
                f" there. Accept its licence at {page} and set HF_TOKEN to a token of that account."
            )
            if isinstance(error, GatedRepoError):
                detail = (
                    f"{repository} is gated (HTTP {status}): accept its licence at {page}, and set HF_TOKEN to a token"
                    " of the account that did."
                )
        case 404:
            problem, detail = (
                DownloadProblem.NOT_FOUND,
                f"The Hub does not have what was asked of {repository}.",
            )
        case 429:
            problem = DownloadProblem.RATE_LIMITED
            detail = (
                f"The Hub answers that there were too many requests (HTTP 429) for {repository}; try later."
            )
        case _:
            problem = DownloadProblem.HUB_ERROR
            detail = f"The Hub failed (HTTP {status}) for {repository}; try later."
    return DownloadFailedError(problem, detail)


def _failed(repository: str, error: Exception) -> DownloadFailedError:
    """What every other failure means."""
    problem, reason = DownloadProblem.HUB_ERROR, "its answer makes no sense"
    if isinstance(error, httpx2.TimeoutException):
        problem, reason = DownloadProblem.TIMEOUT, "it stopped answering"
    elif isinstance(error, OfflineModeIsEnabled):
        problem, reason = DownloadProblem.OFFLINE, "HF_HUB_OFFLINE forbids connections"
    elif isinstance(error, httpx2.RemoteProtocolError | httpx2.ReadError):
        problem, reason = DownloadProblem.TRUNCATED, "the connection broke"
    elif isinstance(error, httpx2.HTTPError):
        problem, reason = DownloadProblem.UNREACHABLE, f"there is no connection to {settings.HF_ENDPOINT}"
    elif isinstance(error, OSError) and error.errno is not None:
        return disk_failed(error)
    elif isinstance(error, OSError):  # without a number: the client's, about a size
        problem, reason = DownloadProblem.TRUNCATED, "the file is not as long as stated"
    return DownloadFailedError(problem, f"The Hub did not give {repository}: {reason}.")
