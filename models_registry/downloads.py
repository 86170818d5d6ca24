"""Downloading a checkpoint: claim, choose, fetch, verify, put in place with one rename, note it on the row.

Files gather in `<model cache>/<id>/.staging-<commit>`; whoever comes after a crash goes on from there.
"""

import fcntl
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.db import DatabaseError, close_old_connections
from psycopg_pool import PoolTimeout

from imagegen_project.common.lanes import Lane, lane_wake
from models_registry.choices import DiskState, DownloadProblem, Family
from models_registry.classes import ClassRefusedError, configs_check
from models_registry.errors import (
    DownloadFailedError,
    DownloadLostError,
    DownloadStoppedError,
    disk_failed,
)
from models_registry.hub import Repository, file_fetch, file_verify, repository_read
from models_registry.models import Checkpoint
from models_registry.pipeline_facts import pipeline_facts
from models_registry.quantization import library_lacks
from models_registry.selection import (
    CHECKER,
    INDEX,
    RemoteFile,
    files_select,
    index_read,
    pipeline_read,
)
from models_registry.selectors import checkpoint_folder
from models_registry.services import (
    QUARANTINE,
    checkpoint_mark_absent,
    checkpoint_mark_broken,
    download_claim,
    download_fail,
    download_hand_back,
    download_note,
    download_succeed,
)
from models_registry.signals import checkpoint_progress
from models_registry.weights import file_digests, header_verify

logger = logging.getLogger(__name__)

# Room that stays for everything else on the disk: the database may lie on the same one.
DISK_MARGIN_BYTES = 512 << 20
MAX_INDEX_BYTES: Final = 1 << 20
ALIVE_EVERY_S: Final = 5.0
PROGRESS_EVERY_S: Final = 1.0

# Called with the bytes on disk and the bytes in all.
OnProgress = Callable[[int, int], None]
_stopping = threading.Event()


def downloads_stop() -> None:
    """Has the download in this process end at its next megabyte; another process will go on."""
    _stopping.set()


def download_take() -> bool:
    """Carries out the oldest pending download that nobody has in hand; False when there is none."""
    checkpoint = None if _stopping.is_set() else download_claim()
    if checkpoint is None:
        return False
    try:
        download_run(checkpoint=checkpoint)
    except DownloadFailedError:
        logger.debug("stated on the row")  # whoever waits has been told, too
    except (DownloadStoppedError, DownloadLostError) as error:
        logger.info("download left", extra={"model_id": checkpoint.pk, "reason": type(error).__name__})
    return True


# Beside the lane of the adapters: neither waits for the other, and a slow repository for no quick one.
LANE: Final = Lane("models", download_take, at_once=2)


def download_next() -> None:
    """The entry point of RQ entries: there is something to download."""
    if not lane_wake(LANE.name):
        download_take()


def check_files(checkpoint_id: str) -> None:
    """The entry point of RQ entries: reads all files of a present checkpoint again, and notes what is wrong."""
    checkpoint = Checkpoint.objects.filter(pk=checkpoint_id, state=DiskState.PRESENT).first()
    if checkpoint is None or checkpoint.is_builtin:
        return
    folder = checkpoint_folder(checkpoint)
    if not folder.is_dir():
        checkpoint_mark_absent(checkpoint_id=checkpoint_id)
    elif problem := _first_problem(folder, checkpoint.files):
        checkpoint_mark_broken(checkpoint_id=checkpoint_id, detail=problem)


def _first_problem(folder: Path, files: dict[str, dict[str, Any]]) -> str:
    for path, entry in files.items():
        try:
            found = file_digests(folder / path)
            if (found.size, found.sha256) != (entry["size"], entry["sha256"]):
                return f"{path} has changed on the disk."
            if path.endswith(".safetensors"):
                header_verify(folder / path)
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}."
        except DownloadFailedError as error:
            return error.detail
    return ""


def checkpoint_complete(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is on disk as far as sizes tell, with what the safety filter needs of it."""
    if checkpoint.is_builtin:
        return True
    folder = checkpoint_folder(checkpoint)
    try:
        whole = all(
            (folder / path).stat().st_size == entry["size"] for path, entry in checkpoint.files.items()
        )
        if checkpoint.state != DiskState.PRESENT or not checkpoint.files or not whole:
            return False
        components = index_read((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, DownloadFailedError):
        return False
    has_checker = any(path.startswith(f"{CHECKER}/") for path in checkpoint.files)
    return has_checker or CHECKER not in components or settings.SAFETY_FILTER == "off"


def checkpoint_prefetch(*, checkpoint: Checkpoint, on_progress: OnProgress | None = None) -> bool:
    """Brings a checkpoint to disk in this process; False when it was there already.

    Raises DownloadFailedError, and DownloadLostError when another process has it in hand.
    """
    if checkpoint_complete(checkpoint):
        return False
    checkpoint_mark_absent(checkpoint_id=checkpoint.pk)
    claimed = download_claim(checkpoint=checkpoint)
    if claimed is None:
        raise DownloadLostError("Another process is downloading it.")
    download_run(checkpoint=claimed, on_progress=on_progress)
    return True


def copy_bring(*, checkpoint: Checkpoint) -> None:
    """Brings the files of a present checkpoint, which another host has, to this one: those that its row names.

    Raises DownloadFailedError, DownloadStoppedError, or DownloadLostError when another process of this host is at it.
    """
    final = checkpoint_folder(checkpoint)
    with _alone(checkpoint):
        if final.is_dir():
            return
        repository = repository_read(name=checkpoint.repository, revision=checkpoint.revision)
        staging = _staging(final, repository)
        named = {path: repository.files.get(path) for path in checkpoint.files}
        chosen = [
            file for path, file in named.items() if file and file.size == checkpoint.files[path]["size"]
        ]
        if len(chosen) < len(named):
            detail = f"{repository.name} is not what it was when another host downloaded it."
            raise DownloadFailedError(DownloadProblem.CHECKSUM_MISMATCH, detail)
        staging.mkdir(exist_ok=True)
        _check_disk(staging, chosen)
        for file in chosen:
            sha256 = _file_bring(repository, file, staging, stop_when_told)
            if sha256 != checkpoint.files[file.path]["sha256"]:
                detail = f"{file.path} of {repository.name} is not what another host downloaded."
                raise DownloadFailedError(DownloadProblem.CHECKSUM_MISMATCH, detail)
        _put_in_place(staging, final, checkpoint.files)
    logger.info("model copied", extra={"model_id": checkpoint.pk, "bytes": checkpoint.size_bytes})


def stop_when_told(size: int) -> None:
    """Called with the bytes that are there. Raises DownloadStoppedError once this process shall stop."""
    if _stopping.is_set():
        raise DownloadStoppedError


def _staging(final: Path, repository: Repository) -> Path:
    """Where files gather; those that are in place already, of a smaller choice for instance, come along."""
    staging = final.with_name(f".staging-{repository.commit}")
    if final.is_dir() and not staging.exists():
        final.rename(staging)
    return staging


def _file_bring(
    repository: Repository, file: RemoteFile, staging: Path, on_size: Callable[[int], None]
) -> str:
    """The SHA-256 of one verified file; it is downloaded unless it is there from an earlier attempt."""
    target = staging / file.path
    try:
        if target.is_file():
            return file_verify(target, file)
    except DownloadFailedError:
        target.unlink(missing_ok=True)
    return file_fetch(repository=repository, file=file, target=target, on_size=on_size)


def download_run(*, checkpoint: Checkpoint, on_progress: OnProgress | None = None) -> None:
    """Carries a claimed download out; afterwards the row says `present`, or `broken` and why.

    Raises DownloadFailedError, DownloadStoppedError or DownloadLostError.
    """
    try:
        with _alive(checkpoint) as lost, _alone(checkpoint):
            files = _Download(checkpoint, lost, on_progress).run()
    except (DownloadStoppedError, KeyboardInterrupt):
        download_hand_back(checkpoint=checkpoint)
        raise
    except DownloadLostError:
        raise
    except DownloadFailedError as error:
        download_fail(checkpoint=checkpoint, problem=error.problem, detail=error.detail)
        raise
    except OSError as error:
        failed = disk_failed(error)
        download_fail(checkpoint=checkpoint, problem=failed.problem, detail=failed.detail)
        raise failed from error
    except Exception:
        detail = "The server made a mistake while downloading it; its log says which."
        download_fail(checkpoint=checkpoint, problem=DownloadProblem.INTERNAL_ERROR, detail=detail)
        raise
    if not download_succeed(checkpoint=checkpoint, files=files):
        raise DownloadLostError("Another process has taken it over.")


@contextmanager
def _alive(checkpoint: Checkpoint) -> Iterator[threading.Event]:
    """Gives signs of life in a thread, also while the Hub is silent; the event says that the row is somebody else's."""
    done, lost = threading.Event(), threading.Event()

    def beat() -> None:
        while not done.wait(ALIVE_EVERY_S):
            close_old_connections()
            try:
                if not download_note(checkpoint=checkpoint):
                    lost.set()
            except (DatabaseError, PoolTimeout) as error:
                logger.warning("database away", extra={"reason": type(error).__name__})
            finally:
                close_old_connections()

    thread = threading.Thread(target=beat, name="download-alive", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        done.set()
        thread.join()


@contextmanager
def _alone(checkpoint: Checkpoint) -> Iterator[None]:
    """Keeps a process that was only asleep from writing beside the one that took over. Raises DownloadLostError."""
    folder = Path(settings.MODEL_CACHE_DIR) / checkpoint.pk
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadLostError("Another process of this machine still writes its files.") from error
        yield


def _check_configs(staging: Path) -> None:
    """Raises DownloadFailedError where the JSON files name what is not used here, or take what is not installed."""
    try:
        configs_check(staging)
    except ClassRefusedError as error:
        raise DownloadFailedError(
            DownloadProblem.UNSUPPORTED, f"The repository cannot be used: {error}."
        ) from error
    # Where torch is, this is the Python that would draw with it; elsewhere the GPU workers say what they lack.
    if find_spec("torch") and (reason := library_lacks(staging)):
        raise DownloadFailedError(DownloadProblem.UNUSABLE, reason)


class _Download:
    """One attempt: fetches what is missing, and counts."""

    def __init__(self, checkpoint: Checkpoint, lost: threading.Event, on_progress: OnProgress | None) -> None:
        self.checkpoint = checkpoint
        self._lost = lost
        self._on_progress = on_progress
        self._told_at = 0.0
        self._whole = 0  # bytes of the files that are whole

    def run(self) -> dict[str, dict[str, Any]]:
        """The manifest of the files, once they are in place."""
        row = self.checkpoint
        repository = repository_read(name=row.repository, revision=row.revision)
        row.revision, row.gated = repository.commit, repository.gated
        self._note(revision=repository.commit, gated=repository.gated)
        final = checkpoint_folder(row)
        staging = _staging(final, repository)
        chosen = self._choose(repository, staging)
        row.size_bytes = sum(file.size for file in chosen)
        self._note(size_bytes=row.size_bytes)
        _check_disk(staging, chosen)
        try:
            weights = [file for file in chosen if file.path.endswith(".safetensors")]
            # What the small files say may make the weights of no use.
            small = [file for file in chosen if file not in weights]
            manifest = {file.path: self._bring(repository, file, staging) for file in small}
            _check_configs(staging)
            manifest |= {file.path: self._bring(repository, file, staging) for file in weights}
        except DownloadFailedError as error:
            if error.problem == DownloadProblem.DISK_FULL:
                shutil.rmtree(staging, ignore_errors=True)  # a full disk stops more than this download
            raise
        self._note_pipeline(staging)
        _put_in_place(staging, final, manifest)
        return manifest

    def _choose(self, repository: Repository, staging: Path) -> list[RemoteFile]:
        index = repository.files.get(INDEX)
        if index is None or index.size > MAX_INDEX_BYTES:
            raise DownloadFailedError(
                DownloadProblem.UNSUPPORTED,
                f"{repository.name} has no usable {INDEX}: it is not in the layout of diffusers.",
            )
        self._bring(repository, index, staging)
        self._whole = 0
        components = index_read((staging / INDEX).read_text(encoding="utf-8"))
        self._note_pipeline(staging)
        return files_select(
            components,
            repository.files,
            variant=self.checkpoint.variant,
            with_checker=settings.SAFETY_FILTER != "off",
        )

    def _note_pipeline(self, staging: Path) -> None:
        """Writes on the row what can be drawn with it; its family too, where the class has one and nobody named it."""
        found = pipeline_read(staging)
        family = pipeline_facts(pipeline=found["pipeline"], family="").family
        if self.checkpoint.family == Family.OTHER and family:
            found["family"] = family
        self._note(**found)

    def _bring(self, repository: Repository, file: RemoteFile, staging: Path) -> dict[str, Any]:
        """One file for the manifest."""
        sha256 = _file_bring(repository, file, staging, self._count)
        self._whole += file.size
        self._count(0)
        return {"size": file.size, "sha256": sha256}

    def _count(self, size: int) -> None:
        """Tells how much is there; raises when this process shall stop, or the row is somebody else's."""
        if _stopping.is_set():
            raise DownloadStoppedError
        if self._lost.is_set():
            raise DownloadLostError("Another process has taken it over.")
        row = self.checkpoint
        row.downloaded_bytes = min(self._whole + size, row.size_bytes)
        if self._on_progress:
            self._on_progress(row.downloaded_bytes, row.size_bytes)
        if row.size_bytes and time.monotonic() - self._told_at >= PROGRESS_EVERY_S:
            self._told_at = time.monotonic()
            self._note(downloaded_bytes=row.downloaded_bytes)
            checkpoint_progress.send(sender=Checkpoint, checkpoint=row)

    def _note(self, **values: Any) -> None:
        if not download_note(checkpoint=self.checkpoint, **values):
            raise DownloadLostError("Another process has taken it over.")


def _check_disk(staging: Path, chosen: list[RemoteFile]) -> None:
    """Refuses to begin what the disk has no room for. Raises DownloadFailedError."""
    there = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
    missing = max(0, sum(file.size for file in chosen) - there)
    free = shutil.disk_usage(staging).free
    if missing and missing + DISK_MARGIN_BYTES > free:
        raise DownloadFailedError(
            DownloadProblem.DISK_FULL,
            f"It needs {missing / 1e6:.0f} MB and {DISK_MARGIN_BYTES / 1e6:.0f} MB to spare;"
            f" the disk of MODEL_CACHE_DIR has {free / 1e6:.0f} MB left.",
        )


def _put_in_place(staging: Path, final: Path, manifest: dict[str, Any]) -> None:
    """Removes what was not asked for, then lets the folder appear under its name in one step.

    Files of other commits go: nothing names them any more.
    """
    for path in staging.rglob("*"):
        if path.is_file() and str(path.relative_to(staging)) not in manifest:
            path.unlink()
    shutil.rmtree(final, ignore_errors=True)
    staging.rename(final)
    for folder in final.parent.iterdir():
        if folder.is_dir() and folder.name not in {final.name, QUARANTINE}:
            shutil.rmtree(folder, ignore_errors=True)
