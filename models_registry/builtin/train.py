"""Train the built-in model: `python -m models_registry.builtin.train --help`."""

import os

# Spinning threads slow every step by an order of magnitude beside a busy neighbour; read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # processes sample side by side already

import argparse
import copy
import sys
import time
from pathlib import Path
from typing import Final

import torch

from models_registry.builtin import ADAPTERS, WEIGHTS
from models_registry.builtin.architecture import Parts, build_parts, export_pipeline
from models_registry.builtin.evaluate import load_pipeline
from models_registry.builtin.sampling import Sampler, joined
from models_registry.builtin.training_adapters import STYLES, train_adapter
from models_registry.builtin.training_autoencoder import PICTURES, start_as_thumbnail, train_autoencoder
from models_registry.builtin.training_denoiser import SIZES, choose_layout, encode_pools, train_denoiser
from models_registry.builtin.training_loop import PRECISIONS
from models_registry.builtin.training_text import BATCH as TEXTS
from models_registry.builtin.training_text import train_text

DESCRIPTION: Final = """\
Trains the built-in model and its adapters, and writes them where the service looks for them. The stages, in their order:

  autoencoder  learns to say in four numbers what is in 16x16 pixels, and to draw from them
  decoder      learns crisp outlines from latents that are displaced and noisy
  text         the text encoder learns to say what captions describe
  denoiser     learns to draw what captions say; the model is written after it
  outline, pastel   the LoRA adapters

It is made for a CUDA card, on which seven minutes are enough; scenes are sampled by processes beside it, and drawn on the
card. A run that was interrupted goes on from its last checkpoints when started again with the same arguments.
"""
# Of the minutes.
SHARES: Final[dict[str, float]] = {
    "autoencoder": 0.2,
    "decoder": 0.08,
    "text": 0.05,
    "denoiser": 0.61,
    "outline": 0.03,
    "pastel": 0.03,
}
SCENES: Final = 120_000  # that the denoiser learns from; the other stages get a twentieth of them


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m models_registry.builtin.train",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of the run: its checkpoints")
    parser.add_argument("--start", type=Path, help="pipeline folder to go on from (default: from nothing)")
    parser.add_argument(
        "--minutes", type=float, default=7, help="training time, earlier runs counted in (default: 7)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, scenes and noise (default: 0)")
    parser.add_argument("--device", default="cuda", help="torch device (default: cuda)")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16", help="of products (default: bf16)")
    parser.add_argument("--scenes", type=int, default=SCENES, help=f"to learn from (default: {SCENES})")
    parser.add_argument(
        "--batch", type=int, help="scenes per step at most (default: each stage's own, 32 to 1024)"
    )
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count(), help="that sample scenes (default: one per core)"
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the model goes")
    parser.add_argument("--adapters", type=Path, default=ADAPTERS, help="where the adapters go")
    return parser.parse_args(argv)


def starting_parts(start: Path | None, *, seed: int, device: str) -> Parts:
    """Return the parts of the pipeline at `start`, or new ones."""
    if start:
        pipeline = load_pipeline(start)
        parts = Parts(pipeline.tokenizer, pipeline.text_encoder, pipeline.unet, pipeline.vae)
    else:
        parts = build_parts(seed=seed)
        start_as_thumbnail(parts.vae)
    for module in (parts.text_encoder, parts.unet, parts.vae):
        module.to(device)
    parts.vae.to(memory_format=torch.channels_last)
    return parts


def main(argv: list[str] | None = None) -> None:
    """Run all stages."""
    arguments = parse_arguments(argv)
    run, precision, seed, batch = arguments.run, arguments.precision, arguments.seed, arguments.batch
    run.mkdir(parents=True, exist_ok=True)
    minutes = {stage: share * arguments.minutes for stage, share in SHARES.items()}
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:6.1f} s  {text}\n")
        sys.stdout.flush()

    sampler = Sampler(arguments.processes)
    few = arguments.scenes // 20
    styled = {style: sampler.begin(few, seed=f"{seed} first", style=style) for style in ("filled", *STYLES)}
    learned = sampler.begin(arguments.scenes, seed=f"{seed}")
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    device = arguments.device
    parts = starting_parts(arguments.start, seed=seed, device=device)
    samples = {style: sample().to(device) for style, sample in styled.items()}
    drawn = joined(samples.values()).scenes
    for stage in ("autoencoder", "decoder"):
        say(stage)
        train_autoencoder(
            run,
            parts.vae,
            drawn,
            minutes=minutes[stage],
            precision=precision,
            decoder=stage == "decoder",
            pictures=min(batch or PICTURES, PICTURES),
        )
    parts.vae.requires_grad_(requires_grad=False)
    say("waiting for scenes")
    sample = learned().to(device)
    sampler.close()
    say("text")
    train_text(run, parts.text_encoder, sample, minutes=minutes["text"], batch=batch or TEXTS)
    say(f"encoding {len(sample)} scenes")
    pools = encode_pools(parts.vae, sample, SIZES, precision=precision)
    if parts.unet.device.type == "cuda":
        say(choose_layout(parts.unet, parts.text_encoder, pools[0], precision=precision))
    say("denoiser")
    train_denoiser(
        run,
        "denoiser",
        parts.unet,
        parts.text_encoder,
        pools,
        minutes=minutes["denoiser"],
        seed=seed,
        precision=precision,
        largest=batch,
    )
    export_pipeline(copy.deepcopy(parts), arguments.out)
    say(f"written: {arguments.out}")
    del pools
    for style in STYLES:
        train_adapter(
            run,
            parts,
            style,
            samples[style],
            arguments.adapters,
            minutes=minutes[style],
            seed=seed,
            precision=precision,
            largest=batch,
        )
        say(f"written: {arguments.adapters / style}.safetensors")


if __name__ == "__main__":
    main()
