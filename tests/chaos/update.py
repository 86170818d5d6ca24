"""An update from another version: what waited there is drawn and delivered here, and both may run at once.

`python -m tests.chaos.update --from REVISION` checks that version out beside this one, stores jobs there while its
workers are stopped, starts this version on the same data folder, and looks at what became of them. Then processes of
both versions run on one pair of servers for a minute. It prints what it found, and ends with 1 if anything was lost.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import psycopg

from imagegen_project.standalone import paths
from tests.support.receivers import receiving
from tests.support.service import REPOSITORY, SAFETY_S, environment, gone, wait_for

JOBS = 6
SMALL = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 2}
ENDS = ("succeeded", "failed", "canceled")
BESIDE_S = 60.0


class Version:
    """One version's code, and its processes on a data folder."""

    def __init__(self, source: Path, data: Path, port: int) -> None:
        self.source, self.data, self.url = source, data, f"http://127.0.0.1:{port}"
        self.port = port
        self.environment = environment() | {
            "PYTHONPATH": str(source),
            "LEASE_S": "5",
            "WEBHOOK_ALLOW_PRIVATE": "true",
        }

    def start(self, *command: str, **variables: str) -> "subprocess.Popen[bytes]":
        """Starts one of its commands."""
        log = (self.data.parent / f"{self.source.name}-{command[0]}.log").open("ab")
        return subprocess.Popen(
            [sys.executable, str(self.source / "manage.py"), *command],
            cwd=self.data.parent,
            env=self.environment | variables,
            stdout=log,
            stderr=log,
        )

    @contextmanager
    def standalone(self) -> Iterator["subprocess.Popen[bytes]"]:
        """The whole service, until the end of the context."""
        process = self.start("standalone", "--data-dir", str(self.data), "--port", str(self.port))
        try:
            wait_for(lambda: self.is_ready() or process.poll() is not None, "ready")
            assert process.poll() is None, f"{self.source.name} did not start"
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(SAFETY_S)

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            return httpx2.get(f"{self.url}/health/ready", timeout=5).status_code == 200
        except httpx2.TransportError:
            return False

    def client(self) -> httpx2.Client:
        """A client that is its local user."""
        token = (self.data / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=60)


def create(client: httpx2.Client, **fields: Any) -> str:
    """Stores a small job."""
    answer = client.post("/api/v1/generations", json=SMALL | fields)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def ended(client: httpx2.Client, ids: list[str]) -> dict[str, str]:
    """How each job ended, once all have."""
    states: dict[str, str] = {}

    def all_have() -> bool:
        for job_id in ids:
            if states.get(job_id) not in ENDS:
                states[job_id] = client.get(f"/api/v1/generations/{job_id}").json()["status"]
        return all(state in ENDS for state in states.values())

    wait_for(all_have, "the end of every job")
    return states


def workers_of(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """The processes that would draw or deliver."""
    children = psutil.Process(process.pid).children(recursive=True)
    names = ("gpu_worker", "webhook_worker", "task_worker")
    return [child for child in children if any(name in child.cmdline() for name in names)]


def rows(data: Path, query: str) -> list[tuple[Any, ...]]:
    """Reads the database of a running service."""
    with psycopg.connect(paths.database_url(data)) as connection:
        return connection.execute(query).fetchall()


def left_waiting(old: Version, webhook: str) -> list[str]:
    """Jobs, entries and messages that the old version leaves behind."""
    with old.standalone() as process, old.client() as client:
        secret = client.post("/api/v1/webhook-secret")
        assert secret.status_code in (200, 201), secret.text
        create(client)  # it works
        for worker in workers_of(process):
            worker.suspend()
        ids = [create(client, webhook_url=webhook, seed=number) for number in range(JOBS)]
        canceled = create(client, webhook_url=webhook)
        assert client.post(f"/api/v1/generations/{canceled}/cancel").status_code == 200
        pending = rows(old.data, "select count(*) from generation_webhookdelivery where status = 'pending'")
        assert pending[0][0] >= 1, "no message waits"
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()  # and with it everything that it started
        process.wait(SAFETY_S)
        wait_for(lambda: gone(family), "the end of the old version")
    return ids


def beside(old: Version, new: Version) -> dict[str, int]:
    """Both versions' workers and web servers on one pair of servers, for a minute."""
    counts: dict[str, int] = {}
    with ExitStack() as stack, new.standalone():
        servers = {
            "DATA_DIR": str(new.data),
            "DATABASE_URL": paths.database_url(new.data),
            "REDIS_URL": paths.redis_url(new.data),
        }
        web = Version(old.source, new.data, old.port)
        processes = [
            old.start("gpu_worker", "--name", "old", **servers),
            old.start("web", "--port", str(web.port), **servers),
        ]
        stack.callback(lambda: [process.wait(SAFETY_S) for process in processes])
        stack.callback(lambda: [process.send_signal(signal.SIGTERM) for process in processes])
        wait_for(web.is_ready, "the old web server")
        clients = [stack.enter_context(new.client()), stack.enter_context(web.client())]
        until, ids = time.monotonic() + BESIDE_S, []
        while time.monotonic() < until:
            ids += [create(client) for client in clients]
            time.sleep(1)
        for state in ended(clients[0], ids).values():
            counts[state] = counts.get(state, 0) + 1
        by_worker = rows(
            new.data,
            "select w.name, count(*) from generation_generation g join generation_worker w on w.id = g.worker_id "
            "where g.status = 'succeeded' group by w.name",
        )
        counts |= {f"drawn by {name}": number for name, number in by_worker}
        doubles = rows(
            new.data, "select generation_id from generation_generatedimage group by 1 having count(*) > 1"
        )
        counts["drawn twice"] = len(doubles)
    return counts


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def check(revision: str) -> Mapping[str, Any]:
    """Runs everything; returns what was found. Raises AssertionError where something is lost."""
    with tempfile.TemporaryDirectory(prefix="update-") as name, receiving() as receiver:
        folder = Path(name)
        source = folder / "before"
        subprocess.run(
            ["git", "-C", str(REPOSITORY), "worktree", "add", "--detach", str(source), revision], check=True
        )
        try:
            data = folder / "data"
            old, new = Version(source, data, free_port()), Version(REPOSITORY, data, free_port())
            ids = left_waiting(old, receiver.url)
            with new.standalone(), new.client() as client:
                states = ended(client, ids)
                assert set(states.values()) == {"succeeded"}, states
                wait_for(lambda: not rows(data, PENDING)[0][0], "delivery of every message")
            found: dict[str, Any] = {"left by the old version, drawn by this one": len(ids)}
            found["messages delivered"] = len(receiver.requests)
            found["side by side"] = beside(old, new)
            assert set(found["side by side"]) & {"failed", "canceled"} == set(), found
            assert not found["side by side"]["drawn twice"], found
            return found
        finally:
            subprocess.run(
                ["git", "-C", str(REPOSITORY), "worktree", "remove", "--force", str(source)], check=False
            )


PENDING = "select count(*) from generation_webhookdelivery where status = 'pending'"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument(
        "--from", dest="revision", required=True, help="the version before: a commit or a tag"
    )
    options = parser.parse_args()
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    try:
        found = check(options.revision)
    except AssertionError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
