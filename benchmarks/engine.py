"""Measures the engine beside plain diffusers, with models of true size: `python -m benchmarks.engine [--models NAME]`.

SD 1.5 at 512x512 in 50 steps, SDXL at 1024x1024 in 30 and FLUX.1 at 1024x1024 in 28, with random weights, in the number
format that the engine chooses. Both draw in turns. Text encoders are tiny: denoising and decoding is what is measured,
up to the picture and without its file. Prints a Markdown table, and writes JSON with `--json`, and a plot beside it.
Needs a card: without one it says so, and shows that it works with tiny models on the CPU, as `--tiny` does.
"""

import argparse
import dataclasses
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from imagegen_project import env

env.configure_torch_process()
if "--compile" in sys.argv:
    import_module("torch._dynamo")  # before the engine, which would leave it out

from tqdm import tqdm

from benchmarks.architectures import ARCHITECTURES
from benchmarks.load import machine, say, write
from benchmarks.plots import plot_bars
from benchmarks.true_size import Measured, NoRoomError, measure
from generation.engine.loader import device_of_choice
from generation.engine.memory import device_name


def main(arguments: list[str]) -> dict[str, Measured]:
    """Runs it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=ARCHITECTURES, default=[*ARCHITECTURES])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of each picture (default: each model's usual ones)")
    parser.add_argument(
        "--compile", action="store_true", help="the engine's blocks first, as COMPILE_MODELS does"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(arguments)
    device = device_of_choice()
    has_card = device.type == "cuda"
    tiny = options.tiny or not has_card
    about = machine() | {"device": device_name(device) if has_card else "no card", "torch": version("torch")}
    say("| model | what | measured |\n| --- | --- | --- |")
    if not has_card:
        say("| true size | | no card |")
    found: dict[str, Measured] = {}
    for name in tqdm(options.models, file=sys.stderr):
        try:
            found[name] = seen = measure(
                name, tiny=tiny, rounds=options.rounds, steps=options.steps, compiles=options.compile
            )
        except NoRoomError as error:
            say(f"| {ARCHITECTURES[name].title} | true size | no room: {error} |")
            continue
        title = f"{seen.title} {seen.side}x{seen.side}, {seen.steps} steps"
        for what, measured in seen.lines():
            say(f"| {title} | {what} | {measured} |")
    write(options.json, about | {name: dataclasses.asdict(seen) for name, seen in found.items()})
    values = {
        f"{seen.title}, {who}": seconds
        for seen in found.values()
        for who, seconds in (("engine", seen.engine_s), ("diffusers", seen.diffusers_s))
    }
    plot_bars(options.json, title="Seconds per picture", unit="s", values=values)
    where = f"{about['device']}, torch {about['torch']}; {about['cpu']}, {about['cores']} cores"
    say(f"\n{where}; load {about['load_before']:.1f}")
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
