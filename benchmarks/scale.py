"""Measures what limits the number of machines: `python -m benchmarks.scale [--jobs N] [--seconds S]`.

Starts `standalone` in a throw-away folder, halts its GPU worker, and prints, as a Markdown table: how many generations
a second one web process stores and how many it shows; how many a second workers take from a long queue and end, one
process and several at once, everything of the job but the drawing; and what an idle worker asks of PostgreSQL. All of
it shares the cores of this machine, the database too, so these are lower bounds. Everything stays on this machine.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from tests.support.service import REPOSITORY, Service, environment

QUICK = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 1}
NO_LIMITS = {"MAX_QUEUED": "0", "MAX_QUEUED_PER_USER": "0", "WORK_LIMIT": "0", "LOG_LEVEL": "WARNING"}
CLIENTS = 8
# What a worker does around the drawing: claims, renews once, ends. Ends when the time is over; prints how many.
WORKER = """
import json, sys, time
import django
django.setup()
from django.db.models.functions import Now
from generation.attempts import Progress, attempt_cancel, attempts_renew, generation_claim
from generation.choices import Phase
from generation.models import Worker
number, start, seconds = json.loads(sys.argv[1])
worker = Worker.objects.create(name=f"bench-{number}", hostname="bench", pid=1, heartbeat_at=Now())
time.sleep(max(0, start - time.time()))
done = 0
while time.time() < start + seconds:
    generation = generation_claim(worker=worker)
    if generation is None:
        sys.exit("the queue is empty")
    attempts_renew(progress={(generation.id, generation.attempt): Progress(1, Phase.DENOISING)})
    attempt_cancel(generation=generation)
    done += 1
print(done)
"""
WARM_UP_S = 15
_numbers = count()


class Bench:
    """One running service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.http = service.client()
        self.worker = next(process for process in service.family() if "gpu_worker" in process.cmdline())

    def idle_queries(self, seconds: float) -> float:
        """Transactions a second of the whole idle service; its GPU worker makes most of them."""
        query = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        before = self.service.sql(query)[0][0]
        time.sleep(seconds)
        return float(self.service.sql(query)[0][0] - before) / seconds

    def stored(self, jobs: int) -> tuple[float, list[str]]:
        """Generations stored a second by eight clients, and their ids."""

        def store(_: Any) -> str:
            response = self.http.post("/api/v1/generations", json=QUICK)
            response.raise_for_status()
            return str(response.json()["id"])

        began = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as pool:
            ids = list(tqdm(pool.map(store, range(jobs)), desc="stored", total=jobs, file=sys.stderr))
        return jobs / (time.perf_counter() - began), ids

    def shown(self, ids: list[str]) -> float:
        """Generations shown a second to eight clients."""
        began = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as pool:
            for response in pool.map(lambda job: self.http.get(f"/api/v1/generations/{job}"), ids):
                response.raise_for_status()
        return len(ids) / (time.perf_counter() - began)

    def taken(self, processes: int, seconds: float) -> float:
        """Generations a second that so many worker processes take and end."""
        start = time.time() + WARM_UP_S
        variables = {
            "DATA_DIR": str(self.service.data_dir),
            "DJANGO_SETTINGS_MODULE": "imagegen_project.settings",
            "LOG_LEVEL": "WARNING",
        }
        running = [
            subprocess.Popen(  # noqa: S603 - made here
                [sys.executable, "-c", WORKER, json.dumps([next(_numbers), start, seconds])],
                cwd=REPOSITORY,
                env=environment() | variables,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(processes)
        ]
        return sum(int(process.communicate()[0]) for process in running) / seconds


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=6000, help="length of the queue (default: 6000)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (default: 5)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imagegen-scale-") as folder:
        service = Service(Path(folder) / "data", **NO_LIMITS)
        try:
            service.wait_ready()
            bench = Bench(service)
            idle = bench.idle_queries(arguments.seconds)
            bench.worker.send_signal(signal.SIGSTOP)
            stored, ids = bench.stored(arguments.jobs)
            rows = [
                ("generations stored a second, one web process", f"{stored:.0f}"),
                ("generations shown a second, one web process", f"{bench.shown(ids[:1000]):.0f}"),
                ("transactions a second of an idle service", f"{idle:.0f}"),
            ]
            for processes in (1, 2, 4):
                taken = bench.taken(processes, arguments.seconds)
                rows.append((f"taken from the queue and ended a second, by {processes}", f"{taken:.0f}"))
        finally:
            bench.worker.send_signal(signal.SIGCONT)
            service.end(signal.SIGTERM)
    sys.stdout.write(f"{psutil.cpu_count()} cores, load before the end {psutil.getloadavg()[0]:.1f}\n\n")
    lines = [f"| {what} | {measured} |" for what, measured in rows]
    sys.stdout.write("\n".join(["| what | measured |", "| --- | --- |", *lines, ""]))


if __name__ == "__main__":
    main()
