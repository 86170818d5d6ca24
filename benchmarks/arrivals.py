"""Measures requests that come as they like: `python -m benchmarks.arrivals [--minutes N] [--load SHARE] [--peer]`.

Finds how many pictures per second the service makes for 16 clients, then lets requests arrive by a Poisson process at
80 % of that, each with steps, a scheduler and a prompt of its own. Prints, as a Markdown table, the latency from
arrival to picture, and which share of the jobs joined others in the middle of their steps, as the service's own metric
`imagegen_jobs_drawn_total` counts them. With `--peer`, LitServe at its best gets the same arrivals afterwards, with
equal steps and scheduler, since it batches no others. Writes JSON with `--json`, and a plot beside it.
"""

import argparse
import contextlib
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.load import Ask, machine, measure, say, write
from benchmarks.peers import PEERS, requests, running, service_ask, services
from benchmarks.plots import plot_shares
from benchmarks.throughput import mixed
from tests.support.service import Service

CLIENTS = 16
PEER = "LitServe at its best"
_DRAWN = re.compile(r"^imagegen_jobs_drawn_total\{(?P<labels>[^}]*)\} (?P<count>[0-9.e+]+)$", re.MULTILINE)


def drawn(service: Service) -> dict[str, float]:
    """Jobs drawn so far: all, those that joined, and those that shared a step."""
    with service.client() as http:
        answer = http.get("/metrics")
    answer.raise_for_status()
    found = {"all": 0.0, "joined": 0.0, "shared": 0.0}
    for match in _DRAWN.finditer(answer.text):
        count = float(match["count"])
        found["all"] += count
        found["joined"] += count if 'joined="true"' in match["labels"] else 0
        found["shared"] += count if 'shared="true"' in match["labels"] else 0
    return found


def arrive(ask: Ask, wanted: Sequence[dict[str, Any]], moments: Sequence[float]) -> list[float]:
    """Sends each request at its moment, whatever became of those before it; seconds from the moment to the answer."""
    began = time.perf_counter()

    def one(request: dict[str, Any], moment: float) -> float:
        ask(request)
        return time.perf_counter() - began - moment

    with ThreadPoolExecutor(256) as pool:
        sent = []
        for request, moment in zip(wanted, tqdm(moments, file=sys.stderr), strict=True):
            time.sleep(max(0.0, began + moment - time.perf_counter()))
            sent.append(pool.submit(one, request, moment))
        return [each.result() for each in sent]


def poisson(rate: float, seconds: float) -> list[float]:
    """Moments of arrival at so many per second."""
    chance, moments, moment = random.Random(0), [], 0.0  # noqa: S311 - no secret
    while (moment := moment + chance.expovariate(rate)) < seconds:
        moments.append(moment)
    return moments


def line(name: str, seconds: Sequence[float], joined: str) -> str:
    """A row of the table."""
    p50, p95 = statistics.median(seconds), statistics.quantiles(seconds, n=20)[18]
    return f"| {name} | {len(seconds)} | {p50:.2f} s, {p95:.2f} s | {joined} |"


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--load", type=float, default=0.8, help="of what the service can make (default: 0.8)")
    parser.add_argument("--pictures", type=int, default=64, help="with which that is found (default: 64)")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = machine() | {"seconds": {}}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        root = Path(folder)
        service = stack.enter_context(services(root / "service", single=False))
        ask = service_ask(service)
        measure(ask, requests(2 * CLIENTS, 20), clients=CLIENTS)  # what is learned once
        limit, _ = measure(ask, mixed(options.pictures), clients=CLIENTS)
        rate = options.load * limit
        moments = poisson(rate, 60 * options.minutes)
        before = drawn(service)
        taken = arrive(ask, mixed(len(moments)), moments)
        after = drawn(service)
        count = after["all"] - before["all"]
        share = {name: (after[name] - before[name]) / count for name in ("joined", "shared")}
        found |= {"limit_per_s": limit, "rate_per_s": rate, **share}
        found["seconds"]["this service"] = taken
        say("| | jobs | latency p50, p95 | joined running jobs, shared a step |\n| --- | --- | --- | --- |")
        say(line("this service", taken, f"{100 * share['joined']:.0f} %, {100 * share['shared']:.0f} %"))
        if options.peer:
            other = stack.enter_context(running(PEERS[PEER], root))
            measure(other.ask, requests(CLIENTS, 20), clients=CLIENTS)
            found["seconds"][PEER] = arrive(other.ask, requests(len(moments), 20), moments)
            say(line(PEER, found["seconds"][PEER], ""))
    write(options.json, found)
    title = f"Latency, {rate:.2f} requests per second by a Poisson process"
    plot_shares(options.json, title=title, unit="seconds from arrival to picture", values=found["seconds"])
    say(f"\n{found['cpu']}, {found['cores']} cores; load {found['load_before']:.1f}; limit {limit:.2f}/s")


if __name__ == "__main__":
    main()
