"""Measures the running service on this machine: `python -m benchmarks.service [--repeat N]`.

Starts `standalone` in a throw-away folder and prints, as a Markdown table: seconds until it is ready, what the service
adds to a picture's time, threads and connections of the web process while 300 requests wait, the delay of events, and
how long a job stands still after its worker was killed. Everything stays on this machine.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from signal import SIGTERM
from typing import Any

import httpx2
import psutil
import websockets
from tqdm import tqdm

from tests.support.service import Service

WAITING = 300
QUICK = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 1}


class Bench:
    """One running service and its client."""

    def __init__(self, service: Service) -> None:
        self.service = service
        token = (service.data_dir / "token").read_text().strip()
        self.headers = {"Authorization": f"Bearer {token}"}
        self.url = f"http://127.0.0.1:{service.port}"
        self.http = httpx2.Client(base_url=self.url, headers=self.headers, timeout=600)

    def overhead_ms(self, repeat: int) -> list[float]:
        """A waiting request's time less the time in the pipeline."""
        found = []
        for _ in tqdm(range(repeat), desc="overhead", file=sys.stderr):
            began = time.perf_counter()
            body = self.http.post("/api/v1/generate/txt2img", json=QUICK).json()
            found.append((time.perf_counter() - began) * 1000 - body["latency_ms"])
        return found

    def picture_s(self, repeat: int) -> list[float]:
        """The pipeline's time for 512x512 in 20 steps."""
        found = []
        for _ in tqdm(range(repeat), desc="pictures", file=sys.stderr):
            request = QUICK | {"width": 512, "height": 512, "steps": 20}
            found.append(self.http.post("/api/v1/generate/txt2img", json=request).json()["latency_ms"] / 1000)
        return found

    async def event_delay_ms(self) -> list[float]:
        """From an event's publication to its arrival at a socket, on one clock."""
        job = self.http.post("/api/v1/generations", json=QUICK | {"steps": 60}).json()
        address = f"{self.url.replace('http', 'ws')}/ws/generations/{job['id']}/"
        found = []
        async with websockets.connect(address, additional_headers=self.headers) as socket:
            async for message in socket:
                event = json.loads(message)
                if event["type"] == "progress":
                    found.append(time.time() * 1000 - event["seq"] / 1000)
        return found[5:]

    async def waiting(self) -> tuple[int, int]:
        """The most threads and connections of the web process while 300 requests wait."""
        blocker = self.http.post(
            "/api/v1/generations", json=QUICK | {"steps": 100, "width": 1024, "height": 1024, "num_images": 2}
        ).json()
        web = next(process for process in self.service.family() if "daphne" in process.cmdline())
        limits = httpx2.Limits(max_connections=WAITING)
        threads = connections = 0
        async with httpx2.AsyncClient(
            base_url=self.url, headers=self.headers, timeout=600, limits=limits
        ) as http:
            requests = [
                asyncio.create_task(http.post("/api/v1/generate/txt2img", json=QUICK)) for _ in range(WAITING)
            ]
            waiting: list[Any] = []
            while len(waiting) < WAITING:
                threads = max(threads, web.num_threads())
                connections = max(connections, self._count())
                waiting = await asyncio.to_thread(
                    self.service.sql, "SELECT id FROM generation_generation WHERE status = 'queued'"
                )
                await asyncio.sleep(0.2)
            for job_id in [*(row[0] for row in waiting), blocker["id"]]:
                await asyncio.to_thread(self.http.post, f"/api/v1/generations/{job_id}/cancel")
            await asyncio.gather(*requests)
        return threads, connections

    def _count(self) -> int:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'imagegen web'"
        return int(self.service.sql(query)[0][0])

    def recovery_s(self) -> float:
        """From SIGKILL of the worker until its job runs again."""
        job = self.http.post(
            "/api/v1/generations", json=QUICK | {"steps": 100, "width": 512, "height": 512}
        ).json()
        address = f"/api/v1/generations/{job['id']}"
        while not self.http.get(address).json()["step"]:
            time.sleep(0.05)
        next(process for process in self.service.family() if "gpu_worker" in process.cmdline()).kill()
        began = time.perf_counter()
        while self.http.get(address).json()["attempt"] < 2:
            time.sleep(0.05)
        found = time.perf_counter() - began
        self.http.post(f"{address}/cancel")
        return found


def row(what: str, values: Sequence[float], unit: str) -> str:
    """A line of the table: median, and the range."""
    middle = statistics.median(values)
    span = f"{min(values):.3g} to {max(values):.3g}" if len(values) > 1 else ""
    return f"| {what} | {middle:.3g} {unit} | {span} |"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--repeat", type=int, default=20, help="repetitions of the quick measurements (default 20)"
    )
    repeat = parser.parse_args().repeat
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        service = Service(Path(folder) / "data")
        try:
            service.wait_ready()
            first_s = time.perf_counter() - began
            bench = Bench(service)
            bench.overhead_ms(3)  # warm
            delays = asyncio.run(bench.event_delay_ms())
            rows = [
                row("ready on a fresh folder", [first_s], "s"),
                row("512x512, 20 steps, in the pipeline", bench.picture_s(max(3, repeat // 5)), "s"),
                row("what the service adds to a waiting request", bench.overhead_ms(repeat), "ms"),
                row("an event, from publication to the socket", delays, "ms"),
            ]
            threads, connections = asyncio.run(bench.waiting())
            rows.append(row(f"threads of the web process, {WAITING} requests waiting", [threads], ""))
            rows.append(row(f"its connections to PostgreSQL, {WAITING} requests waiting", [connections], ""))
            rows.append(row("SIGKILL of the worker until its job runs again", [bench.recovery_s()], "s"))
        finally:
            service.end(SIGTERM)
    sys.stdout.write(f"{psutil.cpu_count()} cores, load before the end {psutil.getloadavg()[0]:.1f}\n\n")
    sys.stdout.write("| what | median | range |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
