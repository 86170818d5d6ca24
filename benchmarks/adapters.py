"""Measures LoRA adapters on this machine: `python -m benchmarks.adapters [--jobs N] [--repeat N]`.

Draws with the built-in architecture and twelve random adapters on the usual layers. Prints, as a Markdown table: what
attaching, switching to an attached adapter and drawing with one cost against a bare 20-step job; and, over many jobs
that alternate among the adapters and none, the memory at the end compared with that after each has been used once, and
whether every picture is that of a fresh process. Needs nothing but the repository.
"""

import argparse
import hashlib
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from imagegen_project import env

env.configure_torch_process()

import torch  # noqa: TID251 - it makes adapters, which the engine does not
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from tqdm import tqdm

from generation.engine import AdapterUse, Batch, Engine, ModelRef
from generation.engine.cache import memory_release
from generation.engine.memory import MIB, allocated_bytes
from models_registry import builtin
from models_registry.builtin.architecture import build_parts, build_unet, export_pipeline

ADAPTERS = 12
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"]
LEAST_CHANGE = 0.02  # adapters of this strength leave the picture a picture


def make_adapters(folder: Path) -> list[AdapterUse]:
    """Twelve files with random weights, rank 6, as the adapters that ship have."""
    found = []
    for number in range(ADAPTERS):
        unet = build_unet()
        unet.add_adapter(LoraConfig(r=6, lora_alpha=6, target_modules=TARGETS))
        generator = torch.Generator().manual_seed(number)
        tensors = {
            f"unet.{key}": torch.randn(tensor.shape, generator=generator) * LEAST_CHANGE
            for key, tensor in get_peft_model_state_dict(unet).items()
        }
        path = folder / f"adapter-{number}.safetensors"
        save_file(tensors, path)
        found.append(AdapterUse(path.stem, hashlib.sha256(path.read_bytes()).hexdigest(), path, 1.0))
    return found


def picture(batch: Batch) -> bytes:
    """The picture of an engine that has drawn nothing before."""
    return Engine(threads=1).run(batch).pictures[0].data


class Bench:
    """One engine, one request, twelve adapters."""

    def __init__(self, folder: Path) -> None:
        self.adapters = make_adapters(folder)
        self.model = ModelRef("builtin", "imagegen/builtin", "", folder / "model")
        export_pipeline(build_parts(), self.model.folder)
        self.engine = Engine(threads=1)
        self.batch = Batch(
            self.model, "a red circle", "", 512, 512, builtin.DEFAULT_STEPS, builtin.DEFAULT_GUIDANCE, 7
        )

    def seconds(self, *uses: AdapterUse) -> float:
        """How long a job takes."""
        began = time.perf_counter()
        self.engine.run(replace(self.batch, adapters=uses))
        return time.perf_counter() - began

    def costs(self, repeat: int) -> dict[str, float]:
        """Medians in seconds: a bare job, the same with an adapter attached on the way, warm, and switched."""
        self.seconds()
        taken: dict[str, list[float]] = {"bare": [], "first use": [], "same again": [], "switch": []}
        one, two = self.adapters[:2]
        for _ in tqdm(range(repeat), desc="costs", file=sys.stderr):
            for use in (one, two):
                self.engine.detach(use.sha256)
            taken["bare"].append(self.seconds())
            taken["first use"].append(self.seconds(one))
            taken["same again"].append(self.seconds(one))
            self.seconds(two)
            taken["switch"].append(self.seconds(one))
        return {name: statistics.median(values) for name, values in taken.items()}

    def alternate(self, jobs: int) -> tuple[int, int, bool]:
        """Draws small pictures with each adapter and none in turn; memory after a round and at the end, all right."""
        quick = replace(self.batch, width=256, height=256, num_inference_steps=2)
        turns: list[tuple[AdapterUse, ...]] = [(), *((use,) for use in self.adapters)]
        batches = [replace(quick, adapters=uses) for uses in turns]
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
            fresh = list(tqdm(pool.map(picture, batches), desc="fresh", total=len(turns), file=sys.stderr))
        settled, right = 0, True
        for number in tqdm(range(jobs), desc="jobs", file=sys.stderr):
            turn = number % len(turns)
            right &= self.engine.run(batches[turn]).pictures[0].data == fresh[turn]
            if number == 2 * len(turns):
                memory_release(self.engine.device)
                settled = allocated_bytes(self.engine.device)
        memory_release(self.engine.device)
        return settled, allocated_bytes(self.engine.device), right


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=500, help="alternating jobs (default: 500)")
    parser.add_argument("--repeat", type=int, default=7, help="timed jobs of each kind (default: 7)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        costs = bench.costs(arguments.repeat)
        settled, end, right = bench.alternate(arguments.jobs)
        bench.engine.close()
    bare = costs.pop("bare")
    rows = [("bare job of 20 steps, 512 pixels", f"{bare:.2f} s")]
    rows += [(f"with an adapter, {name} : bare", f"{seconds / bare:.3f}") for name, seconds in costs.items()]
    rows += [
        (
            "a warm switch, beyond the same adapter again",
            f"{100 * (costs['switch'] - costs['same again']) / bare:.1f} % of a bare job",
        ),
        (f"memory after {arguments.jobs} jobs : after 26", f"{end / settled:.3f} ({settled // MIB} MiB)"),
        ("every picture as from a fresh process", "yes" if right else "NO"),
    ]
    lines = [f"| {what} | {measured} |" for what, measured in rows]
    sys.stdout.write("\n".join(["| what | measured |", "| --- | --- |", *lines, ""]))


if __name__ == "__main__":
    main()
