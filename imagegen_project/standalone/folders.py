"""Folders of the embedded servers: who owns them, who may enter them, and that one imagegen at a time uses them."""

import fcntl
import os
import pwd
import shutil
import signal
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

from imagegen_project.standalone.addresses import address_read

# The name that the PostgreSQL wheel itself uses; PostgreSQL refuses to run as root.
SERVER_USER = "pgserver"
_LEFTOVER_TIMEOUT_S = 20.0


class EmbeddedError(Exception):
    """A part of the service cannot start; the message says in one sentence what is missing and what to set."""


class FolderLock:
    """Keeps a second imagegen off a data folder for as long as this process lives, or until `release`.

    Raises EmbeddedError where the folder cannot be written or is in use.
    """

    def __init__(self, data_dir: Path) -> None:
        make_data_folder(data_dir)
        try:
            self._file: IO[str] = (data_dir / "lock").open("a+", encoding="ascii")
        except OSError as error:
            raise EmbeddedError(_unwritable(data_dir, error)) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            address = address_read(data_dir)
            raise EmbeddedError(
                f"Another imagegen (process {lock_holder(data_dir)}) uses the data folder {data_dir}"
                f"{f', at {address}' if address else ''}: use that one, stop it with --stop, or choose another folder "
                "with --data-dir."
            ) from error
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        """Lets another imagegen use the folder."""
        self._file.close()


def lock_holder(data_dir: Path) -> int | None:
    """The process that holds a data folder's lock, if one does."""
    with suppress(FileNotFoundError), (data_dir / "lock").open("r+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return int(file.read().strip() or 0) or None
    return None


def make_data_folder(data_dir: Path) -> None:
    """Makes the data folder, closed to other users (root's stays passable, for the server user).

    Raises EmbeddedError where it cannot be made or written.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o711 if os.geteuid() == 0 else 0o700)
    except OSError as error:
        raise EmbeddedError(_unwritable(data_dir, error)) from error
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise EmbeddedError(_unwritable(data_dir, PermissionError("permission denied")))


def _unwritable(data_dir: Path, error: OSError) -> str:
    reason = (error.strerror or str(error)).lower()
    return (
        f"The data folder {data_dir} cannot be written ({reason}): choose another with --data-dir "
        "or the variable DATA_DIR."
    )


def private_folder(folder: Path, owner: pwd.struct_passwd | None = None) -> None:
    """Makes a folder of mode 0700 that belongs to `owner` (default: to us).

    Raises EmbeddedError where something else stands there: a fallback folder in /tmp has a name others can guess.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.lstat()
        allowed = {os.geteuid()} | ({owner.pw_uid} if owner else set())
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in allowed:
            raise EmbeddedError(f"{folder} belongs to another user: remove it, or use a shorter --data-dir.")
        folder.chmod(0o700)
        if owner:
            os.chown(folder, owner.pw_uid, owner.pw_gid)
    except OSError as error:
        raise EmbeddedError(_unwritable(folder, error)) from error


def server_user() -> pwd.struct_passwd | None:
    """The system user that runs PostgreSQL when we are root, made where it is missing; else None: ourselves.

    Raises EmbeddedError where it cannot be made.
    """
    if os.geteuid() != 0:
        return None
    with suppress(KeyError):
        return pwd.getpwnam(SERVER_USER)
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if useradd is None:
        raise EmbeddedError(_no_user("there is no useradd here"))
    options = ["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin"]
    made = subprocess.run(  # noqa: S603 - a fixed command
        [useradd, *options, SERVER_USER], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        raise EmbeddedError(_no_user(made.stderr.strip()))
    return pwd.getpwnam(SERVER_USER)


def _no_user(reason: str) -> str:
    return (
        f"As root the embedded PostgreSQL needs a system user {SERVER_USER}, which could not be made ({reason}): "
        "run as an ordinary user, or set DATABASE_URL to a PostgreSQL server."
    )


def let_pass(path: Path) -> list[str]:
    """Makes the folders above `path` passable for the server user, and no more than that.

    Returns what was widened, one line each.
    """
    return [line for folder in path.parents if (line := _widen(folder, stat.S_IXOTH))]


def let_read(folder: Path) -> list[str]:
    """Makes a tree of programs and libraries readable for the server user; returns what was widened, in one line."""
    widened = 0
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink():
            continue
        mode = path.stat().st_mode
        needs_passing = path.is_dir() or mode & stat.S_IXUSR
        widened += bool(_widen(path, stat.S_IROTH | (stat.S_IXOTH if needs_passing else 0)))
    return [f"{folder}: {widened} files and folders made readable"] if widened else []


def _widen(path: Path, bits: int) -> str:
    before = stat.S_IMODE(path.stat().st_mode)
    if before & bits == bits:
        return ""
    path.chmod(before | bits)
    return f"{path}: mode {before:04o} -> {before | bits:04o}"


def end_leftovers(program: str, folder: Path, stop_signal: signal.Signals) -> None:
    """Ends servers that an earlier imagegen left running in `folder` (both kinds make it their working folder).

    Call only while holding the folder's lock. Raises EmbeddedError where one does not end.
    """
    leftovers = [
        process
        for process in psutil.process_iter(["name"])
        if process.info["name"] == program and _working_folder(process) == folder
    ]
    for process in leftovers:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(stop_signal)
    deadline = time.monotonic() + _LEFTOVER_TIMEOUT_S
    for process in leftovers:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except psutil.TimeoutExpired as error:
            raise EmbeddedError(
                f"An old {program} (process {process.pid}) still runs on {folder}: end it first."
            ) from error


def _working_folder(process: psutil.Process) -> Path | None:
    with suppress(psutil.Error, OSError):
        return Path(process.cwd())
    return None
