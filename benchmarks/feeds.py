"""Measures many feeds on one web process: `python -m benchmarks.feeds [--sockets N] [--jobs N] [--streams N]`.

Starts `standalone` in a throw-away folder, opens the sockets on jobs that wait, publishes events to every job at a
steady rate from a process of its own, and prints, as a Markdown table: whether every socket got every event in order,
the delay from publishing to receipt, the highest rate at which the 99th percentile stays within 250 ms, what becomes of
a socket that does not read and of the others meanwhile, and the threads that server-sent events take. The service,
Redis, the publisher and the sockets' other ends all share this machine.
"""

import argparse
import asyncio
import json
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx2
import websockets
from tqdm import tqdm

from tests.support.service import REPOSITORY, Service, environment

GOAL_MS = 250.0
RATES = (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
OPEN_AT_ONCE = 50
SETTLE_S = 3.0
QUICK = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 1}
UNLIMITED = {"MAX_QUEUED_PER_USER": "100000", "MAX_QUEUED": "100000"}
# What fills the buffers towards a client that does not read: the largest previews there are, to one job.
HEAVY_RATE, HEAVY_BYTES = 40.0, 20_000
# Runs in a process of its own: jobs, events a second of each, seconds, and the size of previews come as JSON.
PUBLISHER = """
import json, sys, time
import django
django.setup()
from generation.feed.stream import event_append, events_notify
order = json.loads(sys.argv[1])
facts = dict(total_steps=1, percent=0.0, preview="x" * order["preview_bytes"] or None)
pause = 1 / (order["rate"] * len(order["jobs"]))
began, number = time.perf_counter(), 0
while time.perf_counter() - began < order["seconds"]:
    job = order["jobs"][number % len(order["jobs"])]
    events_notify([event_append(job, "progress", attempt=1, step=number, **facts)])
    number += 1
    time.sleep(max(0, began + number * pause - time.perf_counter()))
print(json.dumps({"events": number, "took": time.perf_counter() - began}))
"""


class Bench:
    """One running service and many sockets."""

    def __init__(self, service: Service, *, sockets: int, jobs: int) -> None:
        self.service = service
        self.headers = {"Authorization": f"Bearer {(service.data_dir / 'token').read_text().strip()}"}
        self.address = f"127.0.0.1:{service.port}"
        self.web = next(process for process in service.family() if "daphne" in process.cmdline())
        worker = next(process for process in service.family() if "gpu_worker" in process.cmdline())
        worker.send_signal(signal.SIGSTOP)  # the jobs are to wait
        with httpx2.Client(base_url=f"http://{self.address}", headers=self.headers) as http:
            self.jobs = [http.post("/api/v1/generations", json=QUICK).json()["id"] for _ in range(jobs)]
        self.sockets: list[Any] = []
        self.wanted = sockets

    async def open(self) -> None:
        """Opens all sockets, some at a time, and reads what they begin with."""

        async def one(number: int) -> Any:
            address = f"ws://{self.address}/ws/generations/{self._job(number)}/?after=0"
            opened = await websockets.connect(address, additional_headers=self.headers, open_timeout=60)
            await opened.recv()
            return opened

        for numbers in _some("sockets", self.wanted):
            self.sockets += await asyncio.gather(*map(one, numbers))

    def _job(self, number: int) -> str:
        return str(self.jobs[number % len(self.jobs)])

    async def run(self, rate: float, seconds: float, *, heavy: bool = False) -> dict[str, float]:
        """Publishes at this many events a second and job; what arrived.

        `heavy`: many large ones to the first job, too.
        """
        delays: list[float] = []
        gaps = 0

        async def read(source: Any) -> None:
            nonlocal gaps
            last = 0
            async for message in source:
                event = json.loads(message)
                delays.append(time.time() * 1000 - event["seq"] / 1000)
                gaps += last not in {0, event["prev"]}
                last = event["seq"]

        readers = [asyncio.create_task(read(source)) for source in self.sockets]
        orders = [self._publish(self.jobs, rate, seconds)]
        if heavy:
            orders.append(self._publish(self.jobs[:1], HEAVY_RATE, seconds, preview_bytes=HEAVY_BYTES))
        published, *more = await asyncio.gather(*orders)
        await asyncio.sleep(SETTLE_S)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        delays.sort()
        followers = len(self.sockets) / len(self.jobs)
        return {
            "rate": published["events"] / published["took"] / len(self.jobs),
            "wanted": followers * sum(part["events"] for part in (published, *more)),
            "received": float(len(delays)),
            "gaps": float(gaps),
            "median": statistics.median(delays),
            "p99": delays[int(0.99 * (len(delays) - 1))],
        }

    async def _publish(
        self, jobs: list[str], rate: float, seconds: float, *, preview_bytes: int = 0
    ) -> dict[str, float]:
        order = {"jobs": jobs, "rate": rate, "seconds": seconds, "preview_bytes": preview_bytes}
        variables = {
            "DATA_DIR": str(self.service.data_dir),
            "DJANGO_SETTINGS_MODULE": "imagegen_project.settings",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PUBLISHER,
            json.dumps(order),
            cwd=REPOSITORY,
            env=environment() | variables,
            stdout=subprocess.PIPE,
        )
        output, _ = await process.communicate()
        found: dict[str, float] = json.loads(output.splitlines()[-1])
        return found

    async def run_beside_idle(self, seconds: float) -> tuple[dict[str, float], bool]:
        """A heavy run beside a socket that does not read: what arrived at the others, and whether it was cut off."""
        with socket.create_connection(("127.0.0.1", self.service.port)) as idle:
            idle.sendall(
                (
                    f"GET /ws/generations/{self.jobs[0]}/ HTTP/1.1\r\nHost: {self.address}\r\n"
                    f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: {'A' * 22}==\r\n"
                    f"Sec-WebSocket-Version: 13\r\nAuthorization: {self.headers['Authorization']}\r\n\r\n"
                ).encode()
            )
            found = await self.run(1.0, seconds, heavy=True)
            cut = select.poll()
            cut.register(idle, 0)  # nothing but errors and hang-ups
            return found, bool(cut.poll(0))

    async def count_threads(self, streams: int) -> int:
        """The most threads of the web process while so many event streams are open."""

        async def one(number: int) -> asyncio.StreamWriter:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.service.port)
            path = f"/api/v1/generations/{self._job(number)}/events"
            authorization = self.headers["Authorization"]
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: {self.address}\r\nAuthorization: {authorization}\r\n\r\n".encode()
            )
            await reader.readuntil(b"event: snapshot")
            return writer

        writers: list[asyncio.StreamWriter] = []
        most = 0
        for numbers in _some("streams", streams):
            writers += await asyncio.gather(*map(one, numbers))
            most = max(most, self.web.num_threads())
        for writer in writers:
            writer.close()
        return most

    async def close(self) -> None:
        """Closes all sockets."""
        await asyncio.gather(*(source.close() for source in self.sockets), return_exceptions=True)


def _some(what: str, count: int) -> Iterable[range]:
    """Numbers up to the count, some at a time, under a progress bar."""
    with tqdm(total=count, desc=what, file=sys.stderr) as bar:
        for start in range(0, count, OPEN_AT_ONCE):
            numbers = range(start, min(start + OPEN_AT_ONCE, count))
            yield numbers
            bar.update(len(numbers))


def _whole(found: dict[str, float]) -> str:
    return f"{found['received']:.0f} of {found['wanted']:.0f}, {found['gaps']:.0f} gaps"


async def measure(bench: Bench, seconds: float, streams: int) -> list[tuple[str, str]]:
    """All measurements, as rows."""
    load = os.getloadavg()[0]
    threads = await bench.count_threads(streams)
    await bench.open()
    steady = await bench.run(1.0, seconds)
    highest = steady
    for rate in RATES:
        found = await bench.run(rate, seconds / 2)
        if found["p99"] > GOAL_MS or found["received"] < found["wanted"] or found["gaps"]:
            break
        highest = found
    beside, is_cut = await bench.run_beside_idle(seconds)
    await bench.close()
    return [
        ("sockets, jobs; the machine's load before", f"{len(bench.sockets)}, {len(bench.jobs)}; {load:.1f}"),
        ("events received at one a second and job", _whole(steady)),
        ("delay, median and 99th percentile", f"{steady['median']:.0f} and {steady['p99']:.0f} ms"),
        (
            f"highest rate with a 99th percentile within {GOAL_MS:.0f} ms",
            f"{highest['rate']:.1f} events a second and job"
            f" ({highest['rate'] * len(bench.sockets):.0f} messages a second), {highest['p99']:.0f} ms",
        ),
        ("a socket that does not read, on a job with large events", "cut off" if is_cut else "still there"),
        ("the others meanwhile", f"{_whole(beside)}, 99th percentile {beside['p99']:.0f} ms"),
        (f"threads of the web process, {streams} event streams open", f"{threads}"),
    ]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sockets", type=int, default=1000, help="open sockets (default: 1000)")
    parser.add_argument("--jobs", type=int, default=100, help="jobs that they follow (default: 100)")
    parser.add_argument("--streams", type=int, default=500, help="open event streams (default: 500)")
    parser.add_argument("--seconds", type=float, default=20, help="length of the first run (default: 20)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder) / "data", **UNLIMITED)
        try:
            service.wait_ready()
            bench = Bench(service, sockets=arguments.sockets, jobs=arguments.jobs)
            rows = asyncio.run(measure(bench, arguments.seconds, arguments.streams))
        finally:
            for process in service.family():
                if "gpu_worker" in process.cmdline():
                    process.send_signal(signal.SIGCONT)
            service.end(signal.SIGTERM)
    lines = [f"| {what} | {measured} |" for what, measured in rows]
    sys.stdout.write("\n".join(["| what | measured |", "| --- | --- |", *lines, ""]))


if __name__ == "__main__":
    main()
