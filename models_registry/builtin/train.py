"""Train the built-in model: `python -m models_registry.builtin.train --help`."""

import os

# Spinning threads slow every step by an order of magnitude beside a busy neighbour; read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file

from models_registry.builtin import ADAPTERS, WEIGHTS
from models_registry.builtin.architecture import Parts, build_parts, export_pipeline
from models_registry.builtin.checkpoints import load_named_state
from models_registry.builtin.evaluate import load_pipeline
from models_registry.builtin.generated import write_generated
from models_registry.builtin.latents import write_shards
from models_registry.builtin.precision import PRECISIONS
from models_registry.builtin.training_adapters import STYLES, train_adapters
from models_registry.builtin.training_base import FROM_NOTHING, FURTHER, SIZES, train_base
from models_registry.builtin.training_decoder import train_decoder
from models_registry.builtin.training_half import train_half_vae
from models_registry.builtin.training_text import train_text
from models_registry.builtin.training_vae import deepen, extend, load_half_vae, train_vae

DESCRIPTION: Final = """\
Trains the built-in model. The stages, in their order, all in one run folder:

  text      the text encoder learns to say what captions describe        (4 minutes on 2 cores)
  half      the autoencoder for half-size pictures, on crops of scenes   (6 minutes)
  latents   draws and encodes training scenes; may run beside `base`     (8 minutes)
  base      the denoiser, small pictures first, then native ones         (80 minutes)
  vae       gives the autoencoder its last stage, for full-size pictures (4 minutes)
  generate  draws training captions, for `decoder` to learn from         (5 minutes)
  decoder   the decoder learns crisp outlines; latents stay as they are  (15 minutes)
  export    writes the averaged weights as a pipeline folder
  adapters  the two LoRA adapters, on the exported weights               (10 minutes)

With `--start` the run goes on from an exported model instead of from nothing: `latents`, `base`, `generate`, `decoder`,
`export` and `adapters` are then the stages, and `base` trains outlines at native size from its first step.

A stage that was interrupted goes on from its last checkpoint when started again. `--minutes` is the whole
training time of a stage, earlier runs of it counted in; the learning rate falls to its end by then.
"""
MINUTES: Final[dict[str, float]] = {
    "text": 4,
    "half": 6,
    "base": 80,
    "vae": 4,
    "decoder": 15,
    "adapters": 5,
}
STAGES: Final = ("text", "half", "latents", "base", "vae", "generate", "decoder", "export", "adapters")
SCENES: Final[dict[int, int]] = {256: 12000, 512: 10500}
GENERATED: Final = 1500


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m models_registry.builtin.train",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument(
        "--run", type=Path, required=True, help="folder of the run: checkpoints, latents, sample sheets"
    )
    parser.add_argument("--start", type=Path, help="pipeline folder to go on from (default: from nothing)")
    parser.add_argument(
        "--minutes", type=float, help="training time of the stage (adapters: of each of the two)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, scenes and noise (default: 0)")
    parser.add_argument(
        "--device", default="cpu", help="torch device, for example cpu or cuda (default: cpu)"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="of products; bf16 is fast where the processor has instructions for it (default: fp32)",
    )
    parser.add_argument("--size", type=int, choices=SIZES, help="latents: only this picture size")
    parser.add_argument("--style", choices=STYLES, help="adapters: only this one")
    parser.add_argument("--model", type=Path, default=WEIGHTS, help="adapters: the pipeline they are for")
    parser.add_argument("--adapters", type=Path, help="adapters: folder of earlier ones to go on from")
    parser.add_argument(
        "--count", type=int, help=f"latents: scenes per size (default: {SCENES}); generate: {GENERATED}"
    )
    parser.add_argument(
        "--out", type=Path, help="export and adapters: where to write (default: beside this file)"
    )
    return parser.parse_args(argv)


def load_parts(run: Path, *, seed: int, start: Path | None = None) -> Parts:
    """Return the parts with what the run has trained so far: averaged weights where there are some.

    What it has not trained comes from the pipeline at `start`, or is random.
    """
    if start:
        pipeline = load_pipeline(start)
        parts = Parts(pipeline.tokenizer, pipeline.text_encoder, pipeline.unet, deepen(pipeline.vae))
    else:
        parts = build_parts(seed=seed)
        load_named_state(
            {"text_encoder": parts.text_encoder}, load_file(run / "text" / "weights.safetensors")
        )
        if (run / "vae").exists():
            load_named_state({"vae": parts.vae}, load_file(run / "vae" / "ema.safetensors"))
        else:
            parts.vae = extend(load_half_vae(run))
    if (run / "base").exists():
        load_named_state({"unet": parts.unet}, load_file(run / "base" / "ema.safetensors"))
    if (run / "decoder").exists():
        load_named_state({"decoder": parts.vae.decoder}, load_file(run / "decoder" / "ema.safetensors"))
    return parts


def load_encoder(run: Path, start: Path | None) -> AutoencoderTiny:
    """Return the autoencoder that encodes scenes: the half-size one is the cheaper, where the run has it."""
    return load_pipeline(start).vae if start else load_half_vae(run)


def train(arguments: argparse.Namespace, *, minutes: float) -> None:
    """Run a stage that trains."""
    run, seed, device, stage = arguments.run, arguments.seed, arguments.device, arguments.stage
    if stage == "text":
        train_text(run, minutes=minutes, seed=seed, device=device)
    elif stage == "half":
        train_half_vae(run, minutes=minutes, seed=seed, device=device)
    elif stage == "vae":
        train_vae(run, minutes=minutes, seed=seed, device=device)
    elif stage == "adapters":
        train_adapters(
            run,
            arguments.out or ADAPTERS,
            styles=(arguments.style,) if arguments.style else STYLES,
            minutes=minutes,
            seed=seed,
            device=device,
            model=arguments.model,
            start=arguments.adapters,
            precision=arguments.precision,
        )
    else:
        parts = load_parts(run, seed=seed, start=arguments.start)
        if stage == "decoder":
            train_decoder(
                run, parts.vae, minutes=minutes, seed=seed, device=device, precision=arguments.precision
            )
        else:
            train_base(
                run,
                parts,
                minutes=minutes,
                seed=seed,
                device=device,
                recipe=FURTHER if arguments.start else FROM_NOTHING,
                precision=arguments.precision,
            )


def main(argv: list[str] | None = None) -> None:
    """Run one stage."""
    arguments = parse_arguments(argv)
    run, seed, device = arguments.run, arguments.seed, arguments.device
    run.mkdir(parents=True, exist_ok=True)
    if arguments.stage in MINUTES:
        train(arguments, minutes=arguments.minutes or MINUTES[arguments.stage])
    elif arguments.stage == "latents":
        vae = load_encoder(run, arguments.start).to(device, memory_format=torch.channels_last)
        for size in (arguments.size,) if arguments.size else SIZES:
            count = SCENES[size] if arguments.count is None else arguments.count
            write_shards(vae, run / "scenes", size=size, count=count, seed=seed, device=device)
    elif arguments.stage == "generate":
        write_generated(
            load_parts(run, seed=seed, start=arguments.start),
            run / "scenes",
            count=GENERATED if arguments.count is None else arguments.count,
            seed=seed,
            device=device,
            precision=arguments.precision,
        )
    else:
        parts = load_parts(run, seed=seed, start=arguments.start)
        export_pipeline(parts, arguments.out or WEIGHTS)


if __name__ == "__main__":
    main()
