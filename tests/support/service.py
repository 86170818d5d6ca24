"""A running `standalone`, as tests drive it: over HTTP and signals only."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import psutil
import psycopg

from imagegen_project.standalone import paths

REPOSITORY = Path(__file__).resolve().parents[2]
SAFETY_S = 240.0
# The suite's own servers, keys and settings of torch processes, which a fresh installation does not have.
_NOT_PASSED_ON = {
    "DATA_DIR",
    "DATABASE_URL",
    "REDIS_URL",
    "SECRET_KEY",
    "DJANGO_SETTINGS_MODULE",
    "MEDIA_ROOT",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "TORCH_HOME",
    "MKL_CBWR",
    "TESTS_RUN_DIR",
}


def command(data_dir: Path, *options: str) -> list[str]:
    """The command line of `standalone` on a data folder."""
    return [
        sys.executable,
        str(REPOSITORY / "manage.py"),
        "standalone",
        "--data-dir",
        str(data_dir),
        *options,
    ]


def environment() -> dict[str, str]:
    """This process's environment without what belongs to the suite."""
    return {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}


def port_free() -> int:
    """A port of loopback on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Polls until the condition holds; the cap is only for safety."""
    deadline = time.monotonic() + SAFETY_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.1)


def run(
    data_dir: Path, *options: str, cwd: Path | None = None, variables: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(data_dir, *options),
        cwd=cwd or data_dir.parent,
        env=environment() | dict(variables or {}),
        capture_output=True,
        text=True,
        timeout=SAFETY_S,
        check=False,
    )


class Service:
    """A running `standalone`, and every process that belongs to it."""

    def __init__(self, data_dir: Path, *options: str, **variables: str) -> None:
        self.data_dir = data_dir
        self.port = port_free()
        self._output = data_dir.parent / "output.txt"
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                command(data_dir, "--port", str(self.port), *options),
                cwd=data_dir.parent,
                env=environment() | variables,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def output(self) -> str:
        return self._output.read_text()

    def wait_ready(self) -> None:
        wait_for(
            lambda: "Ctrl-C stops everything." in self.output() or self.process.poll() is not None, "ready"
        )
        assert self.process.poll() is None, self.output()

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    @property
    def headers(self) -> dict[str, str]:
        """With the token that it made for its first user."""
        return {"Authorization": f"Bearer {(self.data_dir / 'token').read_text().strip()}"}

    def client(self) -> httpx2.Client:
        """A client of that user."""
        return httpx2.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers=self.headers, timeout=60, trust_env=False
        )

    def get(self, path: str) -> bytes:
        token = (self.data_dir / "token").read_text()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=SAFETY_S) as answer:
            return bytes(answer.read())

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """Reads the service's database."""
        with psycopg.connect(paths.database_url(self.data_dir)) as connection:
            return connection.execute(query).fetchall()

    def end(self, number: signal.Signals) -> int:
        """Sends a signal and returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(SAFETY_S)


def gone(processes: Sequence[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)
