"""The service that is attacked: its own, watched while it is, and ended when it takes too much memory."""

import contextlib
import http.client
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from typing import Any

import httpx2
import psutil

from tests.support.service import REPOSITORY, SAFETY_S, Service, environment, wait_for

# What the deployment gives to a web process.
MEMORY_LIMIT_BYTES = 1024**3
LOOK_EVERY_S = 0.02
# Where Linux keeps groups with a memory limit: version 1 in a tree of its own, version 2 in the only one.
GROUPS = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max"),
)
# Else most of what one user sends would be answered with 429.
UNTHROTTLED = dict.fromkeys(
    ("THROTTLE_UPLOADS", "THROTTLE_ORDERS", "THROTTLE_MODELS", "THROTTLE_TICKETS"), "0"
)
MAKE_TOKENS = """
from django.contrib.auth.models import User
from generation.webhooks.signing import webhook_secret_create
from imagegen_project.auth.services import token_create
for name, is_staff in (("user", False), ("staff", True), ("bystander", False)):
    user = User.objects.create_user(name, is_staff=is_staff, is_superuser=is_staff)
    webhook_secret_create(owner=user)
    print(name, token_create(user=user, expires_in=None))
"""


@dataclass(frozen=True)
class Watched:
    """What was seen of the web process, and of the workers beside the GPU's."""

    peak_bytes: int
    workers_peak_bytes: int
    health_s: tuple[float, ...]

    @property
    def health_p99_s(self) -> float:
        """The time in which 99 of 100 questions to `/health` were answered."""
        return sorted(self.health_s)[int(len(self.health_s) * 0.99)]


class Target:
    """A running service with a user, a member of staff and a bystander whose jobs have to end."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.port = service.port
        family = service.family()
        self.web = next(process for process in family if "daphne" in process.cmdline())
        self.workers = [
            process for process in family if {"task_worker", "webhook_worker"} & set(process.cmdline())
        ]
        program = [sys.executable, str(REPOSITORY / "manage.py"), "shell", "-c", MAKE_TOKENS]
        done = subprocess.run(
            program,
            env=environment() | {"DATA_DIR": str(service.data_dir)},
            check=True,
            capture_output=True,
            text=True,
        )
        lines = [line.split() for line in done.stdout.splitlines()]
        self.tokens = {words[0]: words[1] for words in lines if len(words) == 2}

    def call(self, who: str, method: str, path: str, **options: Any) -> Any:
        """One request, by `who` or, where that is empty, by somebody without an account."""
        headers = options.pop("headers", {})
        if who:
            headers |= {"Authorization": f"Bearer {self.tokens[who]}"}
        url = f"http://127.0.0.1:{self.port}{path}"
        return httpx2.request(method, url, headers=headers, timeout=SAFETY_S, **options)

    def job(self) -> str:
        """A small job of the bystander."""
        body = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 1}
        answer = self.call("bystander", "POST", "/api/v1/generations", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job_ends(self, job_id: str) -> None:
        """Waits until it has succeeded."""
        path = f"/api/v1/generations/{job_id}"
        wait_for(lambda: self.call("bystander", "GET", path).json()["status"] == "succeeded", "the job's end")

    def resident(self) -> int:
        """Bytes of memory that the web process has now."""
        return int(self.web.memory_info().rss)

    @contextlib.contextmanager
    def limited(self) -> Iterator[bool]:
        """Puts the web process into a group of its own that gets no more than the limit; whether that was allowed.

        Pages that it has already stay counted elsewhere, so the group's limit is what is left. Where no group can be
        made, the watcher (`watched`) is what ends a process over the limit.
        """
        group = home = None
        for folder, limit in GROUPS:
            with contextlib.suppress(OSError):
                made = folder / f"imagegen-attack-{self.web.pid}"
                made.mkdir()
                group, home = made, folder
                (made / limit).write_text(str(MEMORY_LIMIT_BYTES - self.resident()))
                (made / "cgroup.procs").write_text(str(self.web.pid))
                break
            if group:
                group.rmdir()
                group = None
        try:
            yield group is not None
        finally:
            if group and home:
                with contextlib.suppress(OSError):  # the process may have ended, and then the group is empty
                    (home / "cgroup.procs").write_text(str(self.web.pid))
                group.rmdir()

    def lives(self) -> bool:
        """Whether the web process and the workers are still those that were started."""
        return all(
            process.is_running() and process.status() != psutil.STATUS_ZOMBIE
            for process in (self.web, *self.workers)
        )

    @contextlib.contextmanager
    def watched(self) -> Iterator[list[Watched]]:
        """Looks at the processes all the while; the list gets what was seen. Ends the web process over the limit."""
        over, peak, workers_peak, health = threading.Event(), 0, 0, []

        def look() -> None:
            nonlocal peak, workers_peak
            while not over.wait(LOOK_EVERY_S):
                with contextlib.suppress(psutil.NoSuchProcess):
                    peak = max(peak, self.resident())
                    if peak > MEMORY_LIMIT_BYTES:
                        self.web.kill()
                    workers_peak = max(workers_peak, *(worker.memory_info().rss for worker in self.workers))

        def ask() -> None:
            while not over.wait(LOOK_EVERY_S):
                began = time.monotonic()
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SAFETY_S)
                with contextlib.suppress(OSError, http.client.HTTPException):
                    connection.request("GET", "/health")
                    connection.getresponse().read()
                connection.close()
                health.append(time.monotonic() - began)

        threads = [threading.Thread(target=look), threading.Thread(target=ask)]
        for thread in threads:
            thread.start()
        found: list[Watched] = []
        try:
            yield found
        finally:
            over.set()
            for thread in threads:
                thread.join()
            found.append(Watched(peak, workers_peak, tuple(health)))


@contextlib.contextmanager
def target(folder: Path, **variables: str) -> Iterator[Target]:
    """A service that is only there to be attacked; how often is no question, so that every attack is met."""
    folder.mkdir(exist_ok=True)
    service = Service(folder / "data", WORKER_GRACE_S="1", BODY_PATIENCE_S="5", **UNTHROTTLED, **variables)
    try:
        service.wait_ready()
        yield Target(service)
    finally:
        service.end(SIGTERM)
