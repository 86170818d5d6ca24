"""Several web processes on one port: who is free answers, all of them know the same, and none is missed for long."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import httpx2
import psutil
import pytest
from websockets.sync.client import connect

from tests.support.live import Live
from tests.support.service import REPOSITORY, SAFETY_S, environment, port_free, wait_for

REQUEST = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 2}


def two_on(port: int) -> list[str]:
    """The command of two web processes on a port."""
    return [sys.executable, str(REPOSITORY / "manage.py"), "web", "--processes", "2", "--port", str(port)]


class Port:
    """Two web processes on one port of a running service, and their parent."""

    def __init__(self, live: Live, log: Path) -> None:
        self.port, self.log, self.headers = port_free(), log, live.headers
        with log.open("w") as output:
            self.parent = subprocess.Popen(
                two_on(self.port),
                env=environment() | {"DATA_DIR": str(live.service.data_dir)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def processes(self) -> list[psutil.Process]:
        """Those that run, the older first."""
        return sorted(psutil.Process(self.parent.pid).children(), key=psutil.Process.create_time)

    @contextmanager
    def only(self, process: psutil.Process) -> Iterator[httpx2.Client]:
        """A client whose connections that process takes, since the others stand still."""
        others = [other for other in self.processes() if other != process]
        for other in others:
            other.send_signal(SIGSTOP)
        try:
            with httpx2.Client(
                base_url=f"http://127.0.0.1:{self.port}", headers=self.headers, timeout=SAFETY_S
            ) as http:
                yield http
        finally:
            for other in others:
                other.send_signal(SIGCONT)

    def metrics(self, process: psutil.Process) -> str:
        """What that process says of all."""
        with self.only(process) as http:
            return http.get("/metrics").raise_for_status().text

    def wait_listening(self) -> None:
        """Until each process answers."""
        wait_for(lambda: len(self.processes()) == 2 or self.parent.poll() is not None, "two processes")
        assert self.parent.poll() is None, self.log.read_text()
        for process in self.processes():
            with self.only(process) as http:
                assert http.get("/health").status_code == 200


@pytest.fixture
def port(live: Live, tmp_path: Path) -> Iterator[Port]:
    port = Port(live, tmp_path / "web.log")
    try:
        port.wait_listening()
        yield port
    finally:
        port.parent.terminate()
        port.parent.wait(SAFETY_S)


def number(metrics: str, name: str, labels: str = "") -> float:
    """The sum of a metric's samples that have these labels."""
    found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", metrics, flags=re.MULTILINE)
    return sum(float(value) for given, value in found if labels in given)


def created(metrics: str) -> float:
    """How many generations were asked for."""
    return number(metrics, "imagegen_http_request_seconds_count", 'method="POST"')


def test_they_are_one_service(live: Live, port: Port) -> None:
    """A job of one is followed at another, each tells what all counted, and one that dies is replaced."""
    first, second = port.processes()
    folder = Path(first.environ()["PROMETHEUS_MULTIPROC_DIR"])
    jobs = []
    with live.undrawn():
        for process in (first, second):
            with port.only(process) as http:
                response = http.post("/api/v1/generations", json=REQUEST).raise_for_status()
                jobs.append(response.json()["id"])
        with port.only(first):
            feed = connect(
                f"ws://127.0.0.1:{port.port}/ws/generations/{jobs[1]}/", additional_headers=port.headers
            )
        told = port.metrics(second)
    with feed:
        assert [json.loads(message)["type"] for message in feed][-1] == "succeeded"
    assert created(told) == created(port.metrics(first)) == 2
    assert (number(told, "imagegen_sockets_open"), number(told, "imagegen_web_processes")) == (1, 2)
    resident = max(process.memory_info().rss for process in (first, second))
    assert number(told, "process_resident_memory_bytes") > resident

    with port.only(first):
        held = connect(
            f"ws://127.0.0.1:{port.port}/ws/generations/{live.occupy()['id']}/",
            additional_headers=port.headers,
        )
    assert number(port.metrics(second), "imagegen_sockets_open") == 1
    first.kill()
    wait_for(lambda: len(port.processes()) == 2 and first not in port.processes(), "another process")
    third = port.processes()[-1]
    after = port.metrics(third)
    assert (created(after), number(after, "imagegen_sockets_open")) == (2, 0)
    assert number(after, "process_cpu_seconds_total") > number(told, "process_cpu_seconds_total")
    log = [json.loads(line) for line in port.log.read_text().splitlines()]
    (ended,) = (line for line in log if line["message"] == "process ended")
    assert (ended["child"], ended["pid"], ended["ended_by"]) == ("web-1", first.pid, "signal SIGKILL")
    held.close_socket()

    port.parent.terminate()
    assert port.parent.wait(SAFETY_S) == 0
    assert not any(process.is_running() for process in (second, third))
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"http://127.0.0.1:{port.port}/health")
    assert not folder.exists()


def test_a_taken_port_is_said(live: Live) -> None:
    done = subprocess.run(
        two_on(live.service.port),
        env=environment() | {"DATA_DIR": str(live.service.data_dir)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"Port {live.service.port} on 127.0.0.1 is taken: choose another with --port." in done.stderr
