"""Measures swapping models on this machine: `python -m benchmarks.swap [--repeat N] [--swaps N]`.

Model A draws while model B (the same architecture, other weights) is loaded beside it. Prints, as a Markdown table: how
long A's steps take undisturbed, its longest gap between two steps while B loads, which share of the load ran beside
A's steps, whether A's bytes are those of an undisturbed run, and the memory after many alternating swaps compared with
that after the first two. Needs nothing but the repository.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from tqdm import tqdm

from imagegen_project import env

env.configure_torch_process()

from generation.engine import Batch, Engine, ModelRef
from generation.engine.memory import MIB, allocated_bytes
from models_registry import builtin
from models_registry.builtin.architecture import build_parts, export_pipeline

STEPS = 40


@dataclasses.dataclass
class Watched:
    """One run of A: when each of its steps ended, when B was ready, how long A waited for B's parts; in seconds."""

    steps: list[float]
    started: float
    ready: float
    blocked: float
    data: bytes

    @property
    def gaps(self) -> list[float]:
        """Seconds between the ends of consecutive steps."""
        return [later - earlier for earlier, later in zip(self.steps, self.steps[1:], strict=False)]


def draw(engine: Engine, batch: Batch, other: ModelRef | None) -> Watched:
    """Draws A; from its fifth step on, loads `other` beside it."""
    watched = Watched([], 0.0, 0.0, 0.0, b"")
    advance = engine.cache.advance

    def advance_timed() -> bool:
        began = time.perf_counter()
        try:
            return advance()
        finally:
            watched.blocked += time.perf_counter() - began

    def on_step(step: int, total_steps: int) -> None:
        watched.steps.append(time.perf_counter())
        if other is not None and step == 5:
            watched.started = time.perf_counter()
            loading = engine.load_beside(other)
            loading.add_done_callback(lambda done: setattr(watched, "ready", time.perf_counter()))

    with patch.object(engine.cache, "advance", advance_timed):
        watched.data = engine.run(batch, on_step=on_step).pictures[0].data
    return watched


def alternate(engine: Engine, models: list[ModelRef], swaps: int) -> tuple[int, int]:
    """Swaps models through a cache that holds one; returns the memory after two swaps and at the end, bytes."""
    engine.cache.resident_bytes = engine.cache.warm_bytes = 1
    settled = 0
    for number in tqdm(range(swaps), desc="swaps", file=sys.stderr):
        engine.load(models[number % 2])
        if number == 1:
            settled = allocated_bytes(engine.device)
    return settled, allocated_bytes(engine.device)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=5, help="loads beside a running job (default: 5)")
    parser.add_argument("--swaps", type=int, default=200, help="alternating swaps (default: 200)")
    parser.add_argument("--size", type=int, default=512, help="side of A's pictures in pixels (default: 512)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = []
        for number, name in enumerate("ab"):
            export_pipeline(build_parts(seed=number), Path(folder) / name)
            models.append(ModelRef(name, f"benchmark/{name}", "", Path(folder) / name))
        engine = Engine()
        a, b = models
        batch = Batch(
            a, "a red circle", "", arguments.size, arguments.size, STEPS, builtin.DEFAULT_GUIDANCE, 7
        )
        draw(engine, batch, None)
        alone, beside = [], []
        for _ in tqdm(range(arguments.repeat), desc="loads", file=sys.stderr):
            alone.append(draw(engine, batch, None))
            beside.append(draw(engine, batch, b))
            engine.unload("b")
        median = statistics.median(gap for run in alone for gap in run.gaps)
        longest_alone = [max(run.gaps) for run in alone]
        longest = [max(run.gaps) for run in beside]
        loads = [run.ready - run.started for run in beside]
        shares = [1 - run.blocked / (run.ready - run.started) for run in beside]
        settled, end = alternate(engine, models, arguments.swaps)
        same = all(run.data == alone[0].data for run in alone + beside)
        rows = [
            ("A's step, median", f"{median * 1000:.0f} ms"),
            ("A's longest gap, undisturbed", f"{statistics.median(longest_alone) * 1000:.0f} ms"),
            ("A's longest gap while B loads", f"{statistics.median(longest) * 1000:.0f} ms"),
            ("that beyond the median step", f"{(statistics.median(longest) - median) * 1000:.0f} ms"),
            ("load of B, from order to ready", f"{statistics.median(loads) * 1000:.0f} ms"),
            ("share of the load beside A's steps", f"{100 * statistics.median(shares):.0f} %"),
            ("A's bytes as undisturbed", "yes" if same else "NO"),
            (
                f"memory after {arguments.swaps} swaps : after two",
                f"{end / settled:.3f} ({settled // MIB} MiB)",
            ),
            ("device", str(engine.device)),
        ]
        engine.close()
    lines = [f"| {what} | {measured} |" for what, measured in rows]
    sys.stdout.write("\n".join(["| what | measured |", "| --- | --- |", *lines, ""]))


if __name__ == "__main__":
    main()
