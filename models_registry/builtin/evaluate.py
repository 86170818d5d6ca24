"""Measure how well the built-in model draws what its prompts say: `python -m models_registry.builtin.evaluate`.

The detector says what is in a picture, and the table counts what is right; below it stands how well it is drawn.
"""

import os

# Spinning threads slow every step by an order of magnitude beside a busy neighbour; read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from tqdm import tqdm

from models_registry.builtin import DEFAULT_GUIDANCE, DEFAULT_STEPS, NATIVE_SIZE, WEIGHTS
from models_registry.builtin.captions import plain_caption, sample_caption
from models_registry.builtin.detector import Found, Reading, read_picture
from models_registry.builtin.drawing import draw_scene
from models_registry.builtin.fitting import item_mask
from models_registry.builtin.measures import edge_width, overlaps, roundness
from models_registry.builtin.scenes import Item, Scene, sample_scene

PROMPTS: Final = 240
CIRCLES: Final = 50  # prompts whose circles' roundness is measured
BATCH: Final = 4
TOGETHER: Final = 16  # pictures that the command draws at once
NUMBER_FORMATS: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Rows of the table: what is counted, and the share that the model is meant to reach.
TARGETS: Final[dict[str, float]] = {
    "one shape: shape": 0.96,
    "one shape: both colours": 0.99,
    "one shape: size": 0.97,
    "one shape: position": 0.97,
    "two shapes: both present": 0.85,
    "two shapes: relation": 0.85,
}


@dataclass(frozen=True)
class Case:
    """A held-out scene, the prompt that asks for it, and the seed of its noise."""

    scene: Scene
    prompt: str
    seed: int


Draw = Callable[[argparse.Namespace, list[Case]], Iterable[tuple[Case, Image.Image]]]


def held_out_cases(count: int = PROMPTS) -> list[Case]:
    """Return the fidelity prompts, the same ones every time: of three, two ask for one shape and one for two.

    Half of them are in plain words, half in any phrasing of the grammar with nothing left out. A smaller `count` gives
    the first ones of the list. No background has two colours, so that "both colours" means one thing.
    """
    rng = random.Random("fidelity")
    cases = []
    for index in range(count):
        scene = sample_scene(rng, held_out=True, pairs=float(index % 3 == 2), splits=0)
        prompt = plain_caption(scene) if index % 2 == 0 else sample_caption(scene, rng)
        cases.append(Case(scene, prompt, seed=index))
    return cases


def circle_cases(count: int = CIRCLES) -> list[Case]:
    """Return prompts for one large circle, held out or not, the same ones every time."""
    rng = random.Random("circles")
    cases: list[Case] = []
    while len(cases) < count:
        scene = sample_scene(rng, held_out=rng.random() < 0.1, pairs=0, splits=0)
        if (scene.items[0].shape, scene.items[0].size) == ("circle", "large"):
            cases.append(Case(scene, plain_caption(scene), seed=len(cases)))
    return cases


def load_pipeline(
    folder: Path = WEIGHTS, *, device: str = "cpu", number_format: str = "float32"
) -> StableDiffusionPipeline:
    """Load the exported model, silently; raises FileNotFoundError when nothing was exported."""
    if not (folder / "model_index.json").is_file():
        message = f"no model in {folder}: train one with python -m models_registry.builtin.train"
        raise FileNotFoundError(message)
    dtype = NUMBER_FORMATS[number_format]
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def draw_cases(
    pipeline: StableDiffusionPipeline,
    cases: list[Case],
    *,
    size: int = NATIVE_SIZE,
    steps: int = DEFAULT_STEPS,
    guidance: float = DEFAULT_GUIDANCE,
    together: int = BATCH,
) -> Iterator[tuple[Case, Image.Image]]:
    """Generate one picture per case, `together` at a time; a case's noise depends on its own seed alone."""
    for start in range(0, len(cases), together):
        batch = cases[start : start + together]
        images = pipeline(
            [case.prompt for case in batch],
            num_inference_steps=steps,
            guidance_scale=guidance,
            height=size,
            width=size,
            generator=[torch.Generator().manual_seed(case.seed) for case in batch],
        ).images
        yield from zip(batch, images, strict=True)


def judge(scene: Scene, reading: Reading) -> dict[str, bool]:
    """Return, for every row of the table that the scene counts in, whether the picture has it right.

    A one-shape picture must hold exactly one region: a second shape, or a piece broken off, makes its rows wrong.
    """
    if len(scene.items) > 1:
        present = all(any(_matches(item, found) for found in reading.found) for item in scene.items)
        both = present and len(reading.found) == len(scene.items)
        return {
            "two shapes: both present": both,
            "two shapes: background": reading.background == scene.background,
            "two shapes: relation": both and _related(scene, reading),
        }
    item, found = scene.items[0], reading.only()
    return {
        "one shape: shape": found is not None and found.shape == item.shape,
        "one shape: both colours": found is not None
        and found.colour == item.colour
        and reading.background == scene.background,
        "one shape: size": found is not None and found.size == item.size,
        "one shape: position": found is not None and found.position == scene.place,
    }


def _matches(item: Item, found: Found) -> bool:
    return (item.shape, item.colour) == (found.shape, found.colour)


def _related(scene: Scene, reading: Reading) -> bool:
    """Tell whether the two regions stand to each other as the scene says, whichever of them is which."""
    first, second = scene.items
    axis, sign = {"left of": ("x", -1), "right of": ("x", 1), "above": ("y", -1), "below": ("y", 1)}[
        scene.place
    ]
    for one, other in (reading.found, reading.found[::-1]):
        if _matches(first, one) and _matches(second, other):
            return bool(sign * (getattr(one, axis) - getattr(other, axis)) > 0)
    return False


class Table:
    """Counts right answers by row."""

    def __init__(self) -> None:
        self.right: dict[str, int] = {}
        self.asked: dict[str, int] = {}

    def add(self, verdict: dict[str, bool]) -> None:
        """Count one picture."""
        for row, good in verdict.items():
            self.asked[row] = self.asked.get(row, 0) + 1
            self.right[row] = self.right.get(row, 0) + good

    def share(self, row: str) -> float:
        """Return the share of right answers in a row."""
        return self.right[row] / self.asked[row]

    def lines(self) -> list[str]:
        """Return the table in Markdown."""
        lines = ["| what | right | of | share | target |", "|---|---:|---:|---:|---:|"]
        for row in sorted(self.asked, key=lambda name: (name not in TARGETS, name)):
            target = f"{TARGETS[row]:.0%}" if row in TARGETS else ""
            lines.append(
                f"| {row} | {self.right[row]} | {self.asked[row]} | {self.share(row):.1%} | {target} |"
            )
        return lines


class Report:
    """What is right in pictures, by row and by class of shape, and how well they are drawn."""

    def __init__(self) -> None:
        self.table = Table()
        self.classes = Table()
        self._overlaps: list[float] = []
        self._edges: list[float] = []

    def add(self, case: Case, image: Image.Image) -> tuple[Reading, bool]:
        """Count one picture; return what was seen, and whether all of it is right."""
        scene, pixels = case.scene, np.asarray(image)
        reading = read_picture(pixels)
        verdict = judge(scene, reading)
        self.table.add(verdict)
        self._overlaps += overlaps(scene, pixels)
        if len(scene.items) == 1:
            self.classes.add({scene.items[0].shape: verdict["one shape: shape"]})
            if all(verdict.values()):
                self._edges.append(edge_width(scene, pixels))
        return reading, all(verdict.values())

    def lines(self) -> list[str]:
        """Return the tables in Markdown."""
        edges = f"{statistics.median(self._edges):.1f} pixels" if self._edges else "not measured"
        return [
            *self.table.lines(),
            "",
            "One shape, by class:",
            "",
            *self.classes.lines(),
            "",
            f"- overlap of drawn and ideal shape, median of {len(self._overlaps)}: "
            f"{statistics.median(self._overlaps):.3f}",
            f"- width of edges, median of {len(self._edges)}: {edges}",
        ]


def circle_line(drawn: Iterable[tuple[Case, Image.Image]]) -> str:
    """Return the sentence on the roundness of drawn circles."""
    deviations = [
        roundness(mask)
        for case, image in drawn
        if (mask := item_mask(case.scene, 0, np.asarray(image))).any()
    ]
    return (
        f"- deviation of large circles' outlines from a circle, mean of {len(deviations)}: "
        f"{statistics.fmean(deviations):.1%} of the radius"
    )


def contact_sheet(
    images: list[Image.Image], *, columns: int = 8, side: int = 128, gap: int = 6
) -> Image.Image:
    """Return the pictures side by side on white."""
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (side + gap) + gap, rows * (side + gap) + gap), "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        sheet.paste(
            image.resize((side, side), Image.Resampling.LANCZOS),
            (gap + column * (side + gap), gap + row * (side + gap)),
        )
    return sheet


def measure_speed(folder: Path, *, repeats: int = 3) -> list[str]:
    """Return what loading and one native-size picture take, best of `repeats`, on two threads."""
    torch.set_num_threads(2)
    loads, draws = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        pipeline = load_pipeline(folder)
        loads.append(time.perf_counter() - start)
    for _ in range(repeats):
        start = time.perf_counter()
        list(draw_cases(pipeline, held_out_cases(1)))
        draws.append(time.perf_counter() - start)
    picture = f"{NATIVE_SIZE}x{NATIVE_SIZE}, {DEFAULT_STEPS} steps"
    return [
        f"load the model: {min(loads):.2f} s (all: {', '.join(f'{value:.2f}' for value in loads)})",
        f"{picture}, batch 1: {min(draws):.2f} s (all: {', '.join(f'{value:.2f}' for value in draws)})",
    ]


def parse_arguments(program: str, argv: list[str] | None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}",
        description="Draw prompts whose combinations were held out from training, and count what a detector finds in them.",
    )
    parser.add_argument(
        "--model", type=Path, default=WEIGHTS, help="pipeline folder (default: the built-in weights)"
    )
    parser.add_argument("--count", type=int, default=PROMPTS, help=f"prompts (default: {PROMPTS})")
    parser.add_argument(
        "--circles", type=int, default=CIRCLES, help=f"circles to measure roundness by (default: {CIRCLES})"
    )
    parser.add_argument(
        "--size", type=int, default=NATIVE_SIZE, help=f"side in pixels (default: {NATIVE_SIZE})"
    )
    parser.add_argument(
        "--steps", type=int, default=DEFAULT_STEPS, help=f"sampling steps (default: {DEFAULT_STEPS})"
    )
    parser.add_argument(
        "--guidance",
        type=float,
        default=DEFAULT_GUIDANCE,
        help=f"guidance scale (default: {DEFAULT_GUIDANCE})",
    )
    parser.add_argument(
        "--number-format", choices=NUMBER_FORMATS, default="float32", help="of the weights (default: float32)"
    )
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of the pictures to this file")
    parser.add_argument(
        "--wrong", action="store_true", help="print the prompts that went wrong, and what was seen"
    )
    parser.add_argument(
        "--reconstruct",
        action="store_true",
        help="measure drawn scenes that only pass through the autoencoder instead: what a denoiser could reach",
    )
    parser.add_argument(
        "--speed", action="store_true", help="measure loading and generation instead, on two threads"
    )
    return parser.parse_args(argv)


def draw_with_pipeline(
    arguments: argparse.Namespace, cases: list[Case]
) -> Iterator[tuple[Case, Image.Image]]:
    """Draw cases with the stock pipeline, as many together as are fast on a CPU."""
    pipeline = load_pipeline(arguments.model, number_format=arguments.number_format)
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.vae.to(memory_format=torch.channels_last)
    return draw_cases(
        pipeline,
        cases,
        size=arguments.size,
        steps=arguments.steps,
        guidance=arguments.guidance,
        together=TOGETHER,
    )


@torch.no_grad()
def reconstruct_cases(arguments: argparse.Namespace, cases: list[Case]) -> Iterator[tuple[Case, Image.Image]]:
    """Draw cases' scenes with Pillow and pass them through the autoencoder alone: no denoiser can draw better."""
    vae = load_pipeline(arguments.model).vae.to(memory_format=torch.channels_last)
    for case in cases:
        drawn = np.array(draw_scene(case.scene, arguments.size))
        pixels = torch.from_numpy(drawn).permute(2, 0, 1)[None].float() / 127.5 - 1
        decoded = vae.decode(vae.encode(pixels).latents).sample.clamp(-1, 1)[0]
        yield case, Image.fromarray(((decoded + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def run(program: str, draw: Draw, argv: list[str] | None = None) -> None:
    """Print the fidelity tables of what `draw` makes of the held-out prompts, or the speed."""
    arguments = parse_arguments(program, argv)
    out = sys.stdout
    if arguments.speed:
        out.write("\n".join(measure_speed(arguments.model)) + "\n")
        return
    draw = reconstruct_cases if arguments.reconstruct else draw
    cases = held_out_cases(arguments.count)
    report, images = Report(), []
    for case, image in tqdm(draw(arguments, cases), total=len(cases), desc="drawing", unit="picture"):
        reading, right = report.add(case, image)
        images.append(image)
        if arguments.wrong and not right:
            seen = "; ".join(
                f"{item.size} {item.colour} {item.shape} {item.position}" for item in reading.found
            )
            tqdm.write(f"{case.prompt!r}: {seen or 'nothing'} on {' and '.join(reading.background)}")
    out.write("\n".join(report.lines()) + "\n")
    if arguments.circles:
        out.write(circle_line(draw(arguments, circle_cases(arguments.circles))) + "\n")
    if arguments.sheet:
        contact_sheet(images).save(arguments.sheet)


if __name__ == "__main__":
    run("models_registry.builtin.evaluate", draw_with_pipeline)
