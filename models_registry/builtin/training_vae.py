"""Fourth training stage: the half-size autoencoder gets one more stage, and with it the native size.

Its encoder learns to give the latents that the half-size encoder gives for the picture at half size, its decoder to
paint the full picture from them. So the denoiser, which never sees a pixel, need not be trained anew.
"""

import random
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file
from torch.nn import functional
from tqdm import tqdm

from models_registry.builtin.architecture import build_half_vae, build_vae
from models_registry.builtin.checkpoints import (
    Clock,
    Ema,
    Progress,
    cosine_rate,
    load_named_state,
    load_optimizer,
    load_progress,
    named_state,
    save_checkpoint,
    set_learning_rate,
    trainable,
)
from models_registry.builtin.training_half import LATENT_NOISE, draw_pool, sample_crops, save_reconstructions

CROP: Final = 128
CROPS_PER_STEP: Final = 6
POOL: Final = 400
PEAK_RATE: Final = 1e-3
LATENT_WEIGHT: Final = 1.0


def load_half_vae(run: Path) -> AutoencoderTiny:
    """Return the half-size autoencoder that the run has trained."""
    half = build_half_vae()
    load_named_state({"vae": half}, load_file(run / "half" / "ema.safetensors"))
    return half


@torch.no_grad()
def extend(half: AutoencoderTiny) -> AutoencoderTiny:
    """Return the full autoencoder with the half-size one's weights; the new layers only skip and repeat pixels."""
    vae = build_vae()
    old_encoder, old_decoder = list(half.encoder.layers), list(half.decoder.layers)
    encoder, decoder = list(vae.encoder.layers), list(vae.decoder.layers)
    for old, new in (
        *zip(old_encoder[1:], encoder[2:], strict=True),
        *zip(old_decoder[:-1], decoder[: len(old_decoder) - 1], strict=True),
        (old_decoder[-1], decoder[-1]),
    ):
        new.load_state_dict(old.state_dict())
    # full-size colours pass through the first layer; the second is the old first one, on every other pixel
    enter, shrink = encoder[0], encoder[1]
    enter.weight.mul_(0.1)
    shrink.weight.mul_(0.1)
    for channel in range(3):
        enter.weight[channel] = 0
        enter.weight[channel, channel, 1, 1] = 1
    enter.bias.zero_()
    shrink.weight[:, :3] = old_encoder[0].weight
    enlarge, block = decoder[-3], decoder[-2]
    enlarge.weight.mul_(0.1)
    for channel in range(enlarge.weight.shape[0]):
        enlarge.weight[channel, channel, 1, 1] += 1
    block.conv[4].weight.mul_(0.1)
    return vae


def train_vae(run: Path, *, minutes: float, seed: int, device: str) -> AutoencoderTiny:
    """Train, or train on from `run`/vae, for `minutes` in all; return the averaged autoencoder."""
    torch.manual_seed(seed)
    half = load_half_vae(run)
    vae = extend(half).to(device, memory_format=torch.channels_last)
    half.to(device, memory_format=torch.channels_last).requires_grad_(requires_grad=False)
    modules: dict[str, torch.nn.Module] = {"vae": vae}
    optimizer = torch.optim.AdamW(trainable([vae]), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    ema = Ema(named_state(modules), decay=0.99)
    folder, progress = run / "vae", Progress()
    if folder.exists():
        progress = load_progress(folder)
        load_named_state(modules, load_file(folder / "weights.safetensors"))
        ema.shadow = {
            name: tensor.to(device) for name, tensor in load_file(folder / "ema.safetensors").items()
        }
        load_optimizer(folder, optimizer)
    rng = random.Random(f"{seed} full {progress.step}")
    clock = Clock(progress, minutes=minutes)
    pool = draw_pool(rng, POOL, sizes=(512,)) if clock.share < 1 else []
    bar = tqdm(initial=progress.step, desc="vae", unit="step", mininterval=5)
    while clock.share < 1:
        set_learning_rate(optimizer, cosine_rate(PEAK_RATE, step=progress.step, share=clock.share, warmup=20))
        crops = sample_crops(pool, rng, CROPS_PER_STEP, side=CROP).to(
            device, memory_format=torch.channels_last
        )
        with torch.no_grad():
            latents = half.encode(functional.avg_pool2d(crops, 2)).latents
        decoded = vae.decode(latents + LATENT_NOISE * torch.randn_like(latents)).sample
        error = (decoded - crops).abs().mean() + (decoded - crops).square().mean()
        distance = (vae.encode(crops).latents - latents).square().mean()
        optimizer.zero_grad(set_to_none=True)
        (error + LATENT_WEIGHT * distance).backward()
        torch.nn.utils.clip_grad_norm_(trainable([vae]), 1.0)
        optimizer.step()
        progress.step += 1
        ema.update(named_state(modules), progress.step)
        bar.update()
        if progress.step % 10 == 0:
            bar.set_postfix(
                error=f"{error.item():.4f}", distance=f"{distance.item():.4f}", share=f"{clock.share:.2f}"
            )
        if progress.step % 100 == 0 or clock.share >= 1:
            progress.seconds = clock.seconds
            save_checkpoint(
                folder, weights=named_state(modules), ema=ema.shadow, optimizer=optimizer, progress=progress
            )
            save_reconstructions(vae, pool, run / "vae.png", device)
    bar.close()
    load_named_state(modules, ema.shadow)
    return vae
