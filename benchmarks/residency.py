"""Measures what a model takes whole, in turns and block by block: `python -m benchmarks.residency [--part-mb N]`.

A checkpoint of two large parts, a text encoder and a U-Net, is loaded and drawn with, in a process of its own each
time. Without a GPU the device's copies lie beside the host's in the same memory, so that the process's peak, less the
one of a process that makes no copies, is what a device would hold. Prints a Markdown table. Needs nothing but the
repository.
"""

import argparse
import dataclasses
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from imagegen_project import env

env.configure_torch_process()

from generation.engine import Engine, ModelRef
from generation.engine.memory import MIB
from generation.engine.sizes import weights_look
from tests.support.batches import quick
from tests.support.two_parts import checkpoint_make

WAYS = {
    "host": "the host's own tensors",
    "whole": "copies of all parts",
    "turns": "copies in turns",
    "blocks": "copies block by block",
}


def measure(folder: Path, way: str) -> tuple[int, int, int]:
    """Loads and draws once; the process's peak while it draws and the parts' bytes, in MiB. Linux only."""
    engine = Engine(threads=1)
    model = ModelRef("two", "two/parts", "", folder, dtype="float32")
    weights = weights_look(model, engine.device)
    sizes, least = weights.sizes(), weights.least_sizes()
    whole, plan = sum(sizes.values()), engine.plan(model)
    if way != "host" and plan is not None:
        rooms = {
            "whole": whole,
            "turns": max(sizes["text_encoder"], sizes["unet"]) + sizes["vae"],
            "blocks": max(least["text_encoder"], least["unet"]) + sizes["vae"],
        }
        forced = dataclasses.replace(
            plan,
            in_turns=True,
            in_blocks=way == "blocks",
            stages=(whole, whole, sizes["vae"]),
            room_bytes=rooms[way] + 64 * MIB,
            working_bytes=0,
        )
        engine.cache.plan = lambda model: forced  # type: ignore[method-assign]  # what a planner would say elsewhere
    engine.load(model)
    # While files are read their pages count as well; the peak is that of drawing.
    Path("/proc/self/clear_refs").write_text("5")
    engine.run(quick(model, guidance_scale=1.0))
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    return peak // MIB, sizes["text_encoder"] // MIB, sizes["unet"] // MIB


def main() -> None:
    """Measures each way in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--part-mb", type=int, default=400)
    options = parser.parse_args()
    fresh = ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1)
    with tempfile.TemporaryDirectory() as place, fresh:
        fresh.submit(checkpoint_make, Path(place), part_mb=options.part_mb).result()
        tqdm.write("| on the device | text encoder, U-Net (MiB) | peak (MiB) | beyond the host's |")
        tqdm.write("| --- | --- | --- | --- |")
        alone = 0
        for way, shown in WAYS.items():
            peak, encoder, unet = fresh.submit(measure, Path(place), way).result()
            alone = alone or peak
            tqdm.write(f"| {shown} | {encoder}, {unet} | {peak} | {peak - alone} |")


if __name__ == "__main__":
    main()
