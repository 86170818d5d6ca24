"""Mixed load on a running service: `python -m benchmarks.soak [--seconds 600] [--clients 6] [--restart-every S]`.

Starts `standalone` in a throw-away folder. Each client submits a quick generation, then polls it, follows its feed,
cancels it or waits for it, and downloads its picture. Every ten seconds the memory of the web process and the GPU
worker and the number of connections to PostgreSQL are noted. Prints, as a Markdown table, what was done, every answer
that was neither success nor a stated limit, and the slope of each measure after the first third, with its noise.

With `--restart-every`, clients go to two web processes of their own, as through a balancer that knows who takes
requests, and every so often one of these and the GPU worker are replaced by new ones; memory is then not compared.
At the end every row must have ended as its client was told. Ends with 1 when anything was unexpected. Everything
stays on this machine.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from signal import SIGTERM

import httpx2
import websockets

from imagegen_project.common.shutdown import COME_AGAIN
from tests.support.service import REPOSITORY, Service, environment

QUICK = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 2}
SAMPLE_S = 10.0
BASE = "/api/v1/generations"
ACTIVE = "SELECT 1 FROM generation_generation WHERE status IN ('queued', 'running')"
NORMAL = 1000
# What a client is told to do later, a cancel that came too late, and a picture of what was canceled.
STATED = {202, 200, 201, 204, 404, 409, 429, 503}


class Webs:
    """Web processes beside the service's own, and where requests go meanwhile."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.ports = [service.port]
        self.numbers = itertools.count()
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def next(self) -> str:
        """Where the next request goes."""
        return f"127.0.0.1:{self.ports[next(self.numbers) % len(self.ports)]}"

    async def add(self) -> None:
        """Starts one, and sends requests there once it is ready."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.processes[port] = subprocess.Popen(  # noqa: ASYNC220, S603 - made here
            [sys.executable, str(REPOSITORY / "manage.py"), "web", "--port", str(port)],
            env=environment() | {"DATA_DIR": str(self.service.data_dir), "LOG_LEVEL": "WARNING"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        async with httpx2.AsyncClient(trust_env=False) as http:
            while True:
                with contextlib.suppress(httpx2.TransportError):
                    if (await http.get(f"http://127.0.0.1:{port}/health/ready")).is_success:
                        break
                await asyncio.sleep(0.2)
        self.ports.append(port)

    async def remove(self) -> None:
        """Sends requests elsewhere than to the oldest, then tells it to stop."""
        port = self.ports.pop(0)
        if process := self.processes.pop(port, None):
            process.terminate()
            await asyncio.to_thread(process.wait, 60)

    async def replace(self) -> None:
        """A new one for the oldest."""
        await self.add()
        await self.remove()

    def close(self) -> None:
        """Ends all."""
        for process in self.processes.values():
            process.terminate()
            process.wait(60)


class Soak:
    """One service under load."""

    def __init__(self, service: Service, http: httpx2.AsyncClient, token: str) -> None:
        self.service = service
        self.http = http
        self.token = token
        self.webs = Webs(service)
        self.told: dict[str, str] = {}
        self.done: Counter[str] = Counter()
        self.unexpected: Counter[str] = Counter()
        self.samples: dict[str, list[tuple[float, float]]] = {}
        self.numbers = itertools.count()

    async def request(self, method: str, path: str, **options: object) -> httpx2.Response | None:
        """One request; an answer that nothing announces is noted."""
        try:
            response = await self._request(method, path, **options)
        except httpx2.HTTPError as error:
            self.unexpected[f"{method} {type(error).__name__}"] += 1
            return None
        if response.status_code not in STATED:
            self.unexpected[f"{method} {path.rpartition('/')[2]} {response.status_code}"] += 1
        return response

    async def _request(self, method: str, path: str, **options: object) -> httpx2.Response:
        """One request, as through a balancer: to the next process where one takes no connection any more."""
        while True:
            address = self.webs.next()
            try:
                return await self.http.request(method, f"http://{address}{path}", **options)  # type: ignore[arg-type]
            except httpx2.ConnectError:
                if int(address.rpartition(":")[2]) in self.webs.ports:
                    raise

    async def client(self, until: float) -> None:
        """Submits and does one thing after the other."""
        actions = (self.poll, self.follow, self.cancel, self.wait)
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
        self.told[job_id] = body["status"]
        self.done[body["status"]] += 1
        await self.request("GET", f"{BASE}/{job_id}/images/0")
        self.done["downloaded"] += 1

    async def wait(self, job_id: str) -> None:
        """Submits another one and waits for it in the request."""
        number = next(self.numbers)
        response = await self.request(
            "POST", BASE, json=QUICK | {"seed": number}, headers={"Prefer": "wait=50"}
        )
        if response is not None and response.status_code == httpx2.codes.OK:
            self.told[response.json()["id"]] = response.json()["status"]
            self.done["waited"] += 1
        await self.poll(job_id)

    async def follow(self, job_id: str) -> None:
        """Reads its feed to the end, and comes again where a server that stops sends it away."""
        last, ended = 0, False
        while not ended:
            address = f"ws://{self.webs.next()}/ws/generations/{job_id}/?after={last}"
            try:
                last, ended = await self._read(address, last)
            except (OSError, websockets.WebSocketException) as error:
                if int(address.split(":")[2].partition("/")[0]) in self.webs.ports:
                    self.unexpected[f"socket {type(error).__name__}"] += 1
                    return
        self.done["followed"] += 1

    async def _read(self, address: str, last: int) -> tuple[int, bool]:
        """Reads one socket; the number of its last event, and whether that was the end."""
        headers = {"Authorization": f"Bearer {self.token}"}
        async with websockets.connect(address, additional_headers=headers) as opened:
            with contextlib.suppress(websockets.ConnectionClosed):
                async for message in opened:
                    event = json.loads(message)
                    if event["type"] != "snapshot" and event["prev"] != last:
                        self.unexpected["gap in a feed"] += 1
                    last = max(last, event["seq"])
                    self.done["events"] += 1
            if opened.close_code == COME_AGAIN:
                self.done["sockets sent away"] += 1
                return last, False
            if opened.close_code != NORMAL:
                self.unexpected[f"socket closed with {opened.close_code}"] += 1
        return last, True

    async def cancel(self, job_id: str) -> None:
        """Cancels it."""
        response = await self.request("POST", f"{BASE}/{job_id}/cancel")
        if response is not None and response.status_code == httpx2.codes.OK:
            self.done["cancels"] += 1

    async def restart(self, until: float, every: float) -> None:
        """Replaces a web process and the GPU worker again and again."""
        for _ in range(2):
            await self.webs.add()
        await self.webs.remove()  # the service's own, which goes on without requests
        while time.monotonic() + every < until:
            await asyncio.sleep(every)
            await self.webs.replace()
            self.done["web processes replaced"] += 1
            worker = next(process for process in self.service.family() if "gpu_worker" in process.cmdline())
            worker.terminate()  # its supervisor starts the next
            self.done["workers replaced"] += 1

    def compare(self) -> None:
        """Holds every row against what its client was told."""
        for job_id, status in self.service.sql("SELECT id::text, status FROM generation_generation"):
            told = self.told.get(job_id)
            if status not in ("succeeded", "canceled") or told not in (None, status):
                self.unexpected[f"row {status}, told {told}"] += 1

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

    async def run(self, *, seconds: float, clients: int, restart_every: float) -> None:
        """Everything at once, until the time is over; then all that is queued may end."""
        until = time.monotonic() + seconds
        workers: list[Callable[[float], Awaitable[None]]] = [*[self.client] * clients]
        beside = self.restart(until, restart_every) if restart_every else self.watch(until)
        try:
            await asyncio.gather(beside, *(worker(until) for worker in workers))
            while self.service.sql(ACTIVE):  # noqa: ASYNC110 - the database tells nobody
                await asyncio.sleep(0.5)
        finally:
            self.webs.close()
        self.compare()

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


async def soak(service: Service, *, seconds: float, clients: int, restart_every: float) -> Soak:
    """Runs the load on a service that is ready."""
    token = (service.data_dir / "token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:
        load = Soak(service, http, token)
        await load.run(seconds=seconds, clients=clients, restart_every=restart_every)
    return load


def main() -> None:
    """Starts a service, runs the load, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600, help="length of the load (default 600)")
    parser.add_argument("--clients", type=int, default=6, help="clients at once (default 6)")
    parser.add_argument(
        "--restart-every", type=float, default=0, help="seconds between two rolling restarts (default: none)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imagegen-soak-") as folder:
        service = Service(Path(folder) / "data", LOG_LEVEL="WARNING", WORK_LIMIT="0")
        try:
            service.wait_ready()
            load = asyncio.run(
                soak(
                    service,
                    seconds=arguments.seconds,
                    clients=arguments.clients,
                    restart_every=arguments.restart_every,
                )
            )
        finally:
            service.end(SIGTERM)
    sys.stdout.write(load.report() + "\n")
    sys.exit(1 if load.unexpected else 0)


if __name__ == "__main__":
    main()
