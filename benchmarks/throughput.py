"""Measures how many pictures per second the service makes: `python -m benchmarks.throughput [--rounds N]`.

With 1, 4 and 16 clients that ask again when they have their answer: all for the same (512x512, 20 steps), and each for
steps, a scheduler and a guidance of its own. Prints a Markdown table with latencies, and writes JSON with `--json`.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.load import machine, measure, say, spread, write
from benchmarks.peers import requests, service_ask, services

SCHEDULERS = ("", "euler_a", "ddim", "dpmpp_2m", "unipc")


def mixed(count: int) -> list[dict[str, Any]]:
    """The same prompts in 16 to 24 steps, 20 on average, by different schedulers."""
    return [
        request
        | {
            "steps": 16 + 2 * (index % 5),
            "scheduler": SCHEDULERS[index % len(SCHEDULERS)],
            "guidance_scale": 2.0 + index % 4,
        }
        for index, request in enumerate(requests(count, 20))
    ]


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = machine() | {"pictures_per_s": {}}
    kinds = {"equal": requests(options.pictures, 20), "mixed": mixed(options.pictures)}
    with tempfile.TemporaryDirectory() as folder, services(Path(folder) / "service", single=False) as service:
        ask = service_ask(service)
        measure(ask, requests(32, 20), clients=16)  # what is learned once
        say("| clients | requests | pictures/s | latency, median and longest |\n| --- | --- | --- | --- |")
        for clients in options.clients:
            rates: dict[str, list[float]] = {kind: [] for kind in kinds}
            seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
            for _ in tqdm(range(options.rounds), desc=f"{clients} clients", file=sys.stderr):
                for kind, wanted in kinds.items():
                    rate, each = measure(ask, wanted[: max(8, clients * 3)], clients=clients)
                    rates[kind].append(rate)
                    seconds[kind] += each
            found["pictures_per_s"][clients] = rates
            for kind, values in rates.items():
                longest = f"{statistics.median(seconds[kind]):.1f} s, {max(seconds[kind]):.1f} s"
                say(f"| {clients} | {kind} | {spread(values)} | {longest} |")
    write(options.json, found)
    say(f"\n{found['cpu']}, {found['cores']} cores; load {found['load_before']:.1f}")


if __name__ == "__main__":
    main()
