"""Mixed load on a running service: `python -m benchmarks.soak [--seconds 600] [--clients 6]`.

Starts `standalone` in a throw-away folder. Each client submits a quick generation, then polls it, follows its feed,
cancels it or waits for it, and downloads its picture. Every ten seconds the memory of the web process and the GPU
worker and the number of connections to PostgreSQL are noted. Prints, as a Markdown table, what was done, every answer
that was neither success nor a stated limit, and the slope of each measure after the first third, with its noise.
Ends with 1 when there was an unexpected answer. Everything stays on this machine.
"""

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from signal import SIGTERM

import httpx2
import websockets

from tests.integration.service import Service

QUICK = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 2}
SAMPLE_S = 10.0
BASE = "/api/v1/generations"
# What a client is told to do later, a cancel that came too late, and a picture of what was canceled.
STATED = {202, 200, 201, 204, 404, 409, 429, 503}


class Soak:
    """One service under load."""

    def __init__(self, service: Service, http: httpx2.AsyncClient, token: str) -> None:
        self.service = service
        self.http = http
        self.token = token
        self.done: Counter[str] = Counter()
        self.unexpected: Counter[str] = Counter()
        self.samples: dict[str, list[tuple[float, float]]] = {}
        self.numbers = itertools.count()

    async def request(self, method: str, path: str, **options: object) -> httpx2.Response | None:
        """One request; an answer that nothing announces is noted."""
        try:
            response = await self.http.request(method, path, **options)  # type: ignore[arg-type]
        except httpx2.HTTPError as error:
            self.unexpected[f"{method} {type(error).__name__}"] += 1
            return None
        if response.status_code not in STATED:
            self.unexpected[f"{method} {path.rpartition('/')[2]} {response.status_code}"] += 1
        return response

    async def client(self, until: float) -> None:
        """Submits and does one thing after the other."""
        actions = (self.poll, self.follow, self.cancel, self.poll)
        while time.monotonic() < until:
            number = next(self.numbers)
            created = await self.request("POST", BASE, json=QUICK | {"seed": number})
            if created is None or created.status_code != httpx2.codes.ACCEPTED:
                await asyncio.sleep(1)
                continue
            self.done["submitted"] += 1
            await actions[number % len(actions)](created.json()["id"])

    async def poll(self, job_id: str) -> None:
        """Asks until it has ended, then downloads the picture."""
        body = {"status": "queued"}
        while body["status"] in ("queued", "running"):
            await asyncio.sleep(0.2)
            response = await self.request("GET", f"{BASE}/{job_id}")
            if response is None or response.status_code != httpx2.codes.OK:
                return
            body = response.json()
        self.done[body["status"]] += 1
        await self.request("GET", f"{BASE}/{job_id}/images/0")
        self.done["downloaded"] += 1

    async def follow(self, job_id: str) -> None:
        """Reads its feed to the end."""
        address = f"ws://127.0.0.1:{self.service.port}/ws/generations/{job_id}/?after=0"
        headers = {"Authorization": f"Bearer {self.token}"}
        try:
            async with websockets.connect(address, additional_headers=headers) as socket:
                async for _ in socket:
                    self.done["events"] += 1
            self.done["followed"] += 1
        except (OSError, websockets.WebSocketException) as error:
            self.unexpected[f"socket {type(error).__name__}"] += 1

    async def cancel(self, job_id: str) -> None:
        """Cancels it."""
        await self.request("POST", f"{BASE}/{job_id}/cancel")
        self.done["cancels"] += 1

    async def watch(self, until: float) -> None:
        """Notes memory and connections."""
        while time.monotonic() < until:
            for name, value in self.measure().items():
                self.samples.setdefault(name, []).append((time.monotonic(), value))
            await asyncio.sleep(SAMPLE_S)

    def measure(self) -> dict[str, float]:
        """Memory of the processes that could leak, MiB, and connections to PostgreSQL."""
        found = {}
        for process in self.service.family():
            words = process.cmdline()
            if name := next((name for name in ("daphne", "gpu_worker") if name in words), ""):
                found[f"{name}, MiB"] = process.memory_full_info().uss / 2**20
        rows = self.service.sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
        return found | {"connections": float(rows[0][0])}

    async def run(self, *, seconds: float, clients: int) -> None:
        """Everything at once, until the time is over."""
        until = time.monotonic() + seconds
        workers: list[Callable[[float], Awaitable[None]]] = [self.watch, *[self.client] * clients]
        await asyncio.gather(*(worker(until) for worker in workers))

    def report(self) -> str:
        """The table."""
        lines = ["| what | value |", "| --- | --- |"]
        lines += [f"| {name} | {number} |" for name, number in sorted(self.done.items())]
        lines += [f"| unexpected: {name} | {number} |" for name, number in sorted(self.unexpected.items())]
        for name, samples in self.samples.items():
            lines.append(f"| {name} | {trend(samples[len(samples) // 3 :])} |")
        return "\n".join(lines)


def trend(samples: list[tuple[float, float]]) -> str:
    """The last value, and how much it grows in a minute, with the slope's standard error."""
    last = samples[-1][1]
    if len(samples) <= 3:
        return f"{last:.0f} (too few samples for a slope)"
    times, values = zip(*samples, strict=True)
    slope, level = statistics.linear_regression(times, values)
    rest = sum((value - slope * at - level) ** 2 for at, value in samples) / (len(samples) - 2)
    error = (rest / ((len(samples) - 1) * statistics.variance(times))) ** 0.5
    return f"{last:.0f}; {slope * 60:+.2f} ± {error * 60:.2f} a minute"


async def soak(service: Service, *, seconds: float, clients: int) -> Soak:
    """Runs the load on a service that is ready."""
    token = (service.data_dir / "token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    address = f"http://127.0.0.1:{service.port}"
    async with httpx2.AsyncClient(base_url=address, headers=headers, timeout=60, trust_env=False) as http:
        load = Soak(service, http, token)
        await load.run(seconds=seconds, clients=clients)
    return load


def main() -> None:
    """Starts a service, runs the load, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600, help="length of the load (default 600)")
    parser.add_argument("--clients", type=int, default=6, help="clients at once (default 6)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imagegen-soak-") as folder:
        service = Service(Path(folder) / "data", LOG_LEVEL="WARNING", WORK_LIMIT="0")
        try:
            service.wait_ready()
            load = asyncio.run(soak(service, seconds=arguments.seconds, clients=arguments.clients))
        finally:
            service.end(SIGTERM)
    sys.stdout.write(load.report() + "\n")
    sys.exit(1 if load.unexpected else 0)


if __name__ == "__main__":
    main()
