"""Measures how often workers change models: `python -m benchmarks.switches [--jobs N]`.

Jobs for three models, in random order, arrive at a service whose device holds one of them at a time. Prints, as a
Markdown table, how often the model changed from one job to the next as they were started, how often it would have
changed in the order in which they came, and for how long a job was overtaken. Writes JSON with `--json`, and a plot.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.load import PROMPTS, machine, say, write
from benchmarks.peers import service_shell, services
from benchmarks.plots import plot_bars

MODELS = ("builtin", "second", "third")
# Makes copies of the built-in model under other names; prints for how long a job may be overtaken, in seconds.
COPIES = """
import shutil
from generation.attempts import RESIDENT_FIRST
from models_registry import builtin
from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_folder
for name in {names}:
    row = Checkpoint.objects.get(id="builtin")
    row.pk, row.name, row.repository, row.revision = name, name, f"benchmark/{{name}}", "0" * 40
    row.is_default, row.files, row.aliases = False, {{}}, []
    row.save(force_insert=True)
    shutil.copytree(builtin.WEIGHTS, checkpoint_folder(row))
print(RESIDENT_FIRST.total_seconds())
"""
STORED = """
SELECT checkpoint_id, extract(epoch FROM created_at)::float, extract(epoch FROM started_at)::float
FROM generation_generation WHERE status = 'succeeded' ORDER BY id
"""


def changes(models: Sequence[str]) -> int:
    """How often one follows another model."""
    return sum(one != other for one, other in pairwise(models))


def overtaken(rows: Sequence[tuple[str, float, float]]) -> float:
    """The longest time from a job's arrival to the last start of one of another model that came after it and before
    it was started, in seconds."""
    return max(
        (
            started - created
            for index, (model, created, own) in enumerate(rows)
            for other, _, started in rows[index + 1 :]
            if other != model and started < own
        ),
        default=0.0,
    )


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=90)
    parser.add_argument("--pause", type=float, default=0.4, help="between arrivals, on average, in seconds")
    parser.add_argument(
        "--memory", type=int, default=30, help="MODEL_CACHE_VRAM_MB: room for one (default: 30)"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = machine() | {"jobs": options.jobs}
    chance = random.Random(0)  # noqa: S311 - no secret
    with (
        tempfile.TemporaryDirectory() as folder,
        services(Path(folder) / "service", single=False, MODEL_CACHE_VRAM_MB=str(options.memory)) as service,
    ):
        bound = float(service_shell(service, COPIES.format(names=MODELS[1:])))
        http = service.client()
        for number in range(options.jobs):
            body = {"prompt": PROMPTS[number % len(PROMPTS)], "steps": 10, "model": chance.choice(MODELS)}
            http.post("/api/v1/generations", json=body).raise_for_status()
            time.sleep(chance.expovariate(1 / options.pause))
        while len(rows := service.sql(STORED)) < options.jobs:
            time.sleep(1)
    jobs = [(str(model), float(created), float(started)) for model, created, started in rows]
    fifo = changes([model for model, _, _ in jobs])
    served = changes([model for model, _, _ in sorted(jobs, key=lambda job: job[2])])
    found |= {"fifo": fifo, "served": served, "overtaken_s": overtaken(jobs)}
    found["waited_s"] = [started - created for _, created, started in jobs]
    write(options.json, found)
    values = {"in the order of arrival": [float(fifo)], "as served": [float(served)]}
    plot_bars(options.json, title=f"Changes of the model, {options.jobs} jobs", unit="changes", values=values)
    say("| jobs | changes in their order | as served | share | longest overtaken | bound |")
    say("| --- | --- | --- | --- | --- | --- |")
    share = f"{served / fifo:.2f}"
    say(f"| {options.jobs} | {fifo} | {served} | {share} | {found['overtaken_s']:.1f} s | {bound:.0f} s |")
    say(f"\n{found['cpu']}, {found['cores']} cores; load {found['load_before']:.1f}")


if __name__ == "__main__":
    main()
