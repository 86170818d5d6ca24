"""Measures whether a client is served as well as others: `python -m benchmarks.fairness [--minutes N]`.

Sixteen users ask for a picture each, and again when they have it. Prints each one's latencies as a Markdown table:
how many, the median, the longest, and the longest divided by the median. Writes JSON with `--json`, and a plot.
"""

import argparse
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.load import PROMPTS, machine, post, say, write
from benchmarks.peers import requests, service_shell, services
from benchmarks.plots import plot_bars

USERS = """
from django.contrib.auth.models import User
from imagegen_project.auth.services import token_create
for number in range({count}):
    print(token_create(user=User.objects.create_user(f"client-{{number}}"), expires_in=None))
"""


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = machine() | {"seconds": {}}
    with tempfile.TemporaryDirectory() as folder, services(Path(folder) / "service", single=False) as service:
        tokens = service_shell(service, USERS.format(count=options.clients)).split()
        warm, until = time.perf_counter() + 20, time.perf_counter() + 20 + 60 * options.minutes
        lock = threading.Lock()

        def client(number: int) -> None:
            headers = {"Authorization": f"Bearer {tokens[number]}", "Accept": "image/png"}
            ask = post(service.port, "/api/v1/generate/txt2img", headers)
            body = requests(1, 20)[0] | {"prompt": PROMPTS[number % len(PROMPTS)]}
            while (began := time.perf_counter()) < until:
                ask(body)
                with lock:
                    if began > warm:
                        taken = time.perf_counter() - began
                        found["seconds"].setdefault(f"client {number:02}", []).append(taken)

        with ThreadPoolExecutor(options.clients) as pool:
            list(pool.map(client, range(options.clients)))
    say("| client | pictures | median | longest | longest : median |\n| --- | --- | --- | --- | --- |")
    for name, seconds in sorted(found["seconds"].items()):
        middle, longest = statistics.median(seconds), max(seconds)
        say(f"| {name} | {len(seconds)} | {middle:.2f} s | {longest:.2f} s | {longest / middle:.2f} |")
    everything = [each for seconds in found["seconds"].values() for each in seconds]
    ratio = max(everything) / statistics.median(everything)
    found["longest_to_median"] = ratio
    write(options.json, found)
    title = f"Latency of {options.clients} clients at once"
    plot_bars(options.json, title=title, unit="seconds", values=dict(sorted(found["seconds"].items())))
    say(f"\nof all: {ratio:.2f}; {found['cpu']}, {found['cores']} cores; load {found['load_before']:.1f}")


if __name__ == "__main__":
    main()
