"""A whole service with several workers and users, and the ways of hurting it."""

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import redis

from imagegen_project.standalone import paths
from tests.support.disks import Disk, small_disk
from tests.support.service import REPOSITORY, SAFETY_S, Service, environment

FAILPOINTS = Path(__file__).parent / "failpoints"
RETRY_PAUSE_S = 0.5
# Asking costs the machine more than drawing does.
POLL_S = 0.25
REFUSE_S = 3.0
# For safety only: workers that die at every transition start a dozen times, each in a minute on a busy machine.
PATIENCE_S = 4 * SAFETY_S
ENDS = ("succeeded", "failed", "canceled")

_MAKE_USERS = """
import json
from django.contrib.auth.models import User
from imagegen_project.auth.services import token_create
users = [User.objects.create_user(f"user-{{number}}") for number in range({count})]
print(json.dumps([token_create(user=user, expires_in=None) for user in users]))
"""


@dataclass
class Client:
    """One user: retries what a dying server did not answer, and counts the answers."""

    http: httpx2.Client
    headers: dict[str, str]
    answers: dict[int, int]

    def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """An answer that is not the server's own trouble."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            response = None
            with suppress(httpx2.TransportError):
                response = self.http.request(method, path, **options)
            status = response.status_code if response is not None else 0
            self.answers[status] = self.answers.get(status, 0) + 1
            if response is not None and status < 500:
                return response
            assert time.monotonic() < deadline, f"{method} {path}: {response and response.text}"
            time.sleep(RETRY_PAUSE_S)

    def create(self, key: str, **fields: Any) -> str:
        """Stores a quick generation, once however often it has to be asked for; returns its id."""
        request = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 2} | fields
        response = self.request("POST", "/api/v1/generations", json=request, headers={"Idempotency-Key": key})
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    def cancel(self, job_id: str) -> tuple[int, dict[str, Any]]:
        """The status and the body of the answer."""
        response = self.request("POST", f"/api/v1/generations/{job_id}/cancel")
        return response.status_code, response.json()

    def get(self, job_id: str) -> dict[str, Any]:
        """A generation as it stands."""
        body: dict[str, Any] = self.request("GET", f"/api/v1/generations/{job_id}").json()
        return body

    def wait(self, job_id: str, *statuses: str) -> dict[str, Any]:
        """Waits for one of the statuses (by default for any end)."""
        deadline = time.monotonic() + PATIENCE_S
        while (body := self.get(job_id))["status"] not in (statuses or ENDS):
            assert time.monotonic() < deadline, body
            time.sleep(POLL_S)
        return body


class Fleet:
    """A running service."""

    def __init__(
        self, folder: Path, *, workers: int, users: int, disk: Disk | None = None, **variables: str
    ) -> None:
        self.disk = disk
        self.points = folder / "points"
        self.points.mkdir()
        self.service = Service(
            folder / "data",
            "--workers",
            str(workers),
            PYTHONPATH=str(FAILPOINTS),
            FAILPOINTS_DIR=str(self.points),
            LEASE_S="5",
            WORKER_GRACE_S="1",
            **variables,
        )
        self.url = f"http://127.0.0.1:{self.service.port}"
        self.clients: list[Client] = []
        self.answers: dict[int, int] = {}
        self._clients = ExitStack()
        self._users = users

    def open(self) -> None:
        """Waits for the service and makes its users."""
        self.service.wait_ready()
        for token in json.loads(
            self.manage("shell", "--no-imports", "-c", _MAKE_USERS.format(count=self._users))
        ):
            headers = {"Authorization": f"Bearer {token}"}
            http = httpx2.Client(base_url=self.url, headers=headers, timeout=30)
            self.clients.append(Client(self._clients.enter_context(http), headers, self.answers))

    def close(self) -> None:
        """Ends the service."""
        self._clients.close()
        self.service.end(signal.SIGTERM)

    def manage(self, *arguments: str) -> str:
        """What a management command prints."""
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / "manage.py"), *arguments],
            env=environment() | {"DATA_DIR": str(self.service.data_dir)},
            capture_output=True,
            text=True,
            timeout=SAFETY_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    # Failpoints

    def arm(self, *names: str, chance: str = "") -> None:
        """Lets a process end at each of these transitions: once, or each time with a chance."""
        for name in names:
            # In one go, so that nobody reads a half-written chance.
            unfinished = self.points / f".{name}"
            unfinished.write_text(chance)
            unfinished.rename(self.points / name)

    def disarm(self) -> None:
        """Nobody dies any more, here or there."""
        for name in self.armed():
            (self.points / name).unlink(missing_ok=True)

    def armed(self) -> set[str]:
        """The transitions where somebody is to die."""
        return {path.name for path in self.points.iterdir() if path.name[0] != "." and path.name != "deaths"}

    def deaths(self) -> list[tuple[str, float, int]]:
        """Transition, time and process of everyone who died at one."""
        path = self.points / "deaths"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(name, float(at), int(pid)) for name, at, pid in (line.split() for line in lines)]

    # Disasters

    def processes(self, is_wanted: Callable[[list[str]], bool]) -> Iterator[psutil.Process]:
        """The service's own children whose command line is wanted."""
        for process in psutil.Process(self.service.process.pid).children():
            with suppress(psutil.Error):
                line = process.cmdline()
                if line and is_wanted(line):  # who has just died has none
                    yield process

    def kill_worker(self) -> str:
        """SIGKILL for any GPU worker, whatever it is doing."""
        workers = list(self.processes(lambda line: "gpu_worker" in line))
        if not workers:
            return "no worker to kill"
        victim = random.choice(workers)
        with (self.points / "deaths").open("a") as deaths:
            deaths.write(f"anywhere {time.time()} {victim.pid}\n")
        with suppress(psutil.NoSuchProcess):
            victim.kill()
        return "a worker killed"

    def kill_web(self) -> str:
        """SIGKILL for the web process."""
        return self._signal(lambda line: "daphne" in line, signal.SIGKILL, "web killed")

    def kill_redis(self) -> str:
        """SIGKILL for Redis; what it has not written to its file yet is lost."""
        return self._signal(lambda line: "redis-server" in line[0], signal.SIGKILL, "redis killed")

    def flush_redis(self) -> str:
        """Empties Redis: no entries, no feeds, no cache."""
        with (
            suppress(redis.RedisError),
            redis.Redis.from_url(paths.redis_url(self.service.data_dir)) as client,
        ):
            client.flushall()
            return "redis flushed"
        return "no redis to flush"

    def restart_postgres(self) -> str:
        """Ends every session of PostgreSQL, as an operator's restart does."""
        return self._signal(_is_postgres, signal.SIGINT, "postgres restarted")

    def crash_postgres(self) -> str:
        """Ends PostgreSQL without a checkpoint: it recovers from its log."""
        return self._signal(_is_postgres, signal.SIGQUIT, "postgres crashed")

    def fill_disk(self) -> str:
        """Leaves the pictures no room for a while."""
        return self._refuse(lambda disk: disk.fill(), lambda disk: disk.make_room(), "disk full for a while")

    def freeze_disk(self) -> str:
        """Lets the pictures' disk take no writes for a while."""
        return self._refuse(
            lambda disk: disk.read_only(), lambda disk: disk.read_only(on=False), "disk read-only for a while"
        )

    def _refuse(self, begin: Callable[[Disk], None], end: Callable[[Disk], None], did: str) -> str:
        if self.disk is None:
            return f"no disk to hurt ({did})"
        try:
            begin(self.disk)
            time.sleep(REFUSE_S)
        finally:
            end(self.disk)
        return did

    def _signal(self, is_wanted: Callable[[list[str]], bool], number: signal.Signals, did: str) -> str:
        found = list(self.processes(is_wanted))
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        return did if found else f"nobody there ({did})"


def _is_postgres(line: list[str]) -> bool:
    return line[0].endswith("/postgres")


@contextmanager
def fleet(*, workers: int, users: int, **variables: str) -> Iterator[Fleet]:
    """A service in a folder of its own, which goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="imagegen-chaos-"))
    (folder / "data").mkdir(mode=0o700)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        disk = None
        with suppress(pytest.skip.Exception):  # nothing may be mounted: then all but the disk is hurt
            disk = stack.enter_context(small_disk(folder / "data" / "media", megabytes=512))
        running = Fleet(folder, workers=workers, users=users, disk=disk, **variables)
        stack.callback(running.close)
        running.open()
        yield running
