"""Latents as the denoiser makes them, with the ideal scenes that they mean: what the decoder learns to draw from."""

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Final

import torch
from diffusers import DDIMScheduler
from safetensors.torch import save_file
from tqdm import tqdm

from models_registry.builtin import DEFAULT_GUIDANCE, DEFAULT_STEPS, NATIVE_SIZE, SIZE_MULTIPLE
from models_registry.builtin.architecture import LATENT_CHANNELS, Parts, build_scheduler
from models_registry.builtin.captions import sample_caption
from models_registry.builtin.fitting import fit_scene
from models_registry.builtin.precision import autocast
from models_registry.builtin.scenes import Scene, sample_scene
from models_registry.builtin.training_text import tokenize

GENERATED: Final = "generated"  # the style under which the shards lie beside those of drawn scenes
SHARD: Final = 96
BATCH: Final = 16
PATIENCE: Final = 4  # pictures drawn for each one kept before it is plain that the denoiser cannot draw yet


@torch.no_grad()
def generate_latents(
    parts: Parts,
    scheduler: DDIMScheduler,
    captions: list[str],
    noise: torch.Tensor,
    *,
    precision: str = "fp32",
) -> torch.Tensor:
    """Sample latents for captions from `noise`, with the default steps and guidance."""
    scheduler.set_timesteps(DEFAULT_STEPS)
    ids = tokenize(parts.tokenizer, [""] * len(captions) + captions).to(noise.device)
    hidden = parts.text_encoder(ids).last_hidden_state
    latents = noise
    for step in scheduler.timesteps:
        with autocast(noise.device.type, precision):
            predicted = parts.unet(torch.cat([latents, latents]), step, hidden).sample.float()
        bare, told = predicted.chunk(2)
        guided = bare + DEFAULT_GUIDANCE * (told - bare)
        latents = scheduler.step(guided, step, latents).prev_sample
    return latents


@torch.no_grad()
def decode_pixels(parts: Parts, latents: torch.Tensor) -> torch.Tensor:
    """Return the pictures of latents (batch x height x width x 3, uint8, on the CPU)."""
    decoded = parts.vae.decode(latents).sample.clamp(-1, 1)
    return ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu()


def write_generated(
    parts: Parts,
    folder: Path,
    *,
    count: int,
    seed: int,
    device: str,
    precision: str = "fp32",
    shard: int = SHARD,
) -> None:
    """Write shards of what the denoiser makes of training captions until `count` are there; shards that exist stay.

    What a picture shows is fitted (`fitting`), and the shard holds the ideal scene in its place. Pictures that show
    something else are left out. Raises RuntimeError when nearly all are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for module in (parts.text_encoder, parts.unet, parts.vae):
        module.to(device).eval()
    scheduler = build_scheduler()
    cells, together = NATIVE_SIZE // SIZE_MULTIPLE, min(BATCH, shard)
    for index in tqdm(range(count // shard), desc="generating", unit="shard", mininterval=5):
        path = folder / f"{GENERATED}-{NATIVE_SIZE}-{index:04}.safetensors"
        if path.exists():
            continue
        rng = random.Random(f"{seed} {path.name}")
        generator = torch.Generator().manual_seed(rng.randrange(2**31))
        latents: list[torch.Tensor] = []
        scenes: list[Scene] = []
        drawn = 0
        while len(scenes) < shard:
            if drawn >= PATIENCE * shard:
                raise RuntimeError(
                    "the denoiser draws hardly anything of what it is asked for: train it first"
                )
            drawn += together
            asked = [sample_scene(rng, held_out=False, pairs=0.45, splits=0.1) for _ in range(together)]
            captions = [sample_caption(scene, rng, drop=False) for scene in asked]
            noise = torch.randn((together, LATENT_CHANNELS, cells, cells), generator=generator).to(device)
            made = generate_latents(parts, scheduler, captions, noise, precision=precision)
            for scene, latent, pixels in zip(asked, made, decode_pixels(parts, made), strict=True):
                fitted = fit_scene(scene, pixels.numpy())
                if fitted is not None and len(scenes) < shard:
                    latents.append(latent.cpu())
                    scenes.append(fitted)
        described = json.dumps([asdict(scene) for scene in scenes])
        fresh = path.with_suffix(".new")
        save_file({"latents": torch.stack(latents).half()}, fresh, metadata={"scenes": described})
        fresh.rename(path)
