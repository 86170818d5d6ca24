"""Measures how many pictures per second the service makes: `python -m benchmarks.throughput [--rounds N]`.

With 1, 4, 16 and 64 clients that ask again when they have their answer: all for the same (512x512, 20 steps), and each
for steps, a scheduler, a guidance and a prompt of its own. Prints a Markdown table with latencies and with what the
second is of the first in each round, and writes JSON with `--json`, and a plot beside it.
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
from benchmarks.plots import plot_bars

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
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--pictures", type=int, default=3, help="of each client in each round (default: 3)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = machine() | {"pictures_per_s": {}}
    most = max(8, options.pictures * max(options.clients))
    kinds = {"equal": requests(most, 20), "mixed": mixed(most)}
    with tempfile.TemporaryDirectory() as folder, services(Path(folder) / "service", single=False) as service:
        ask = service_ask(service)
        measure(ask, requests(32, 20), clients=16)  # what is learned once
        say("| clients | requests | pictures/s | latency, median and longest |\n| --- | --- | --- | --- |")
        for clients in options.clients:
            rates: dict[str, list[float]] = {kind: [] for kind in kinds}
            seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
            for _ in tqdm(range(options.rounds), desc=f"{clients} clients", file=sys.stderr):
                for kind, wanted in kinds.items():
                    rate, each = measure(ask, wanted[: max(8, clients * options.pictures)], clients=clients)
                    rates[kind].append(rate)
                    seconds[kind] += each
            ratios = [one / other for one, other in zip(rates["mixed"], rates["equal"], strict=True)]
            found["pictures_per_s"][clients] = rates | {"mixed to equal": ratios}
            for kind, values in rates.items():
                longest = f"{statistics.median(seconds[kind]):.1f} s, {max(seconds[kind]):.1f} s"
                say(f"| {clients} | {kind} | {spread(values)} | {longest} |")
            say(f"| {clients} | mixed : equal | {spread(ratios)} | |")
    write(options.json, found)
    values = {
        f"{clients} clients, {kind}": rates[kind]
        for clients, rates in found["pictures_per_s"].items()
        for kind in kinds
    }
    plot_bars(options.json, title="Pictures per second, 512x512", unit="pictures/s", values=values)
    say(f"\n{found['cpu']}, {found['cores']} cores; load {found['load_before']:.1f}")


if __name__ == "__main__":
    main()
