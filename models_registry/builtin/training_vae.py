"""Fourth training stage: the half-size autoencoder gets one more stage, and with it the native size.

Its encoder learns to give the latents that the half-size encoder gives for the picture at half size, its decoder to
paint the full picture from them. So the denoiser, which never sees a pixel, need not be trained anew.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file
from torch.nn import functional

from models_registry.builtin.architecture import build_half_vae, build_vae
from models_registry.builtin.checkpoints import load_named_state, trainable
from models_registry.builtin.training_half import LATENT_NOISE, draw_pool, sample_crops, save_reconstructions
from models_registry.builtin.training_loop import Stage, train_stage

CROP: Final = 128
CROPS_PER_STEP: Final = 6
POOL: Final = 400
PEAK_RATE: Final = 1e-3
LATENT_WEIGHT: Final = 1.0
QUIET: Final = 0.02  # of a new block's last weights


def load_half_vae(run: Path) -> AutoencoderTiny:
    """Return the half-size autoencoder that the run has trained."""
    half = build_half_vae()
    load_named_state({"vae": half}, load_file(run / "half" / "ema.safetensors"))
    return half


@dataclass(frozen=True)
class DecoderStage:
    """The layers of one resolution: residual blocks, then what enlarges and convolves, or paints, their result."""

    blocks: list[torch.nn.Module]
    rest: list[torch.nn.Module]


def decoder_stages(vae: AutoencoderTiny) -> list[DecoderStage]:
    """Part a decoder's layers by resolution, the coarsest first; the convolution and activation at its start are left out."""
    layers = list(vae.decoder.layers)[2:]
    stages = []
    for count in vae.config.num_decoder_blocks:
        last = count + 1 if len(layers) == count + 1 else count + 2
        stages.append(DecoderStage(layers[:count], layers[count:last]))
        layers = layers[last:]
    return stages


def _copy(old: torch.nn.Module, new: torch.nn.Module) -> None:
    new.load_state_dict(old.state_dict())


def _quieten(block: torch.nn.Module) -> None:
    """Give a residual block random weights with which it hands on what it gets, nearly as it is."""
    for layer in block.conv:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
            layer.bias.zero_()
    block.conv[-1].weight.mul_(QUIET)


@torch.no_grad()
def extend(half: AutoencoderTiny) -> AutoencoderTiny:
    """Return the full autoencoder with the half-size one's weights; its new layers only skip and repeat pixels."""
    vae = build_vae()
    old_encoder, encoder = list(half.encoder.layers), list(vae.encoder.layers)
    for old, new in zip(old_encoder[1:], encoder[2:], strict=True):
        _copy(old, new)
    # full-size colours pass through the first layer; the second is the old first one, on every other pixel
    enter, shrink = encoder[0], encoder[1]
    enter.weight.mul_(0.1)
    shrink.weight.mul_(0.1)
    for channel in range(3):
        enter.weight[channel] = 0
        enter.weight[channel, channel, 1, 1] = 1
    enter.bias.zero_()
    shrink.weight[:, :3] = old_encoder[0].weight

    _copy_decoder(half, vae)
    stages = decoder_stages(vae)
    enlarge = stages[-2].rest[-1]
    _copy(half.decoder.layers[-1], stages[-1].rest[-1])
    enlarge.weight.mul_(0.1)
    for channel in range(enlarge.weight.shape[0]):
        enlarge.weight[channel, channel, 1, 1] += 1
    for block in stages[-1].blocks:
        _quieten(block)
    return vae


@torch.no_grad()
def deepen(vae: AutoencoderTiny) -> AutoencoderTiny:
    """Return `build_vae` with the weights of one whose decoder may have fewer blocks; the new ones hand on what they get."""
    deeper = build_vae()
    _copy(vae.encoder, deeper.encoder)
    _copy_decoder(vae, deeper)
    return deeper


def _copy_decoder(old: AutoencoderTiny, new: AutoencoderTiny) -> None:
    """Copy a decoder's weights, stage by stage, into one of as many or more stages and blocks."""
    _copy(old.decoder.layers[0], new.decoder.layers[0])
    for old_stage, stage in zip(decoder_stages(old), decoder_stages(new), strict=False):
        for old_block, block in zip(old_stage.blocks, stage.blocks, strict=False):
            _copy(old_block, block)
        for block in stage.blocks[len(old_stage.blocks) :]:
            _quieten(block)
        if len(old_stage.rest) == len(stage.rest):
            _copy(old_stage.rest[-1], stage.rest[-1])


def train_vae(run: Path, *, minutes: float, seed: int, device: str) -> AutoencoderTiny:
    """Train, or train on from `run`/vae, for `minutes` in all; return the averaged autoencoder."""
    torch.manual_seed(seed)
    half = load_half_vae(run)
    vae = extend(half).to(device, memory_format=torch.channels_last)
    half.to(device, memory_format=torch.channels_last).requires_grad_(requires_grad=False)
    modules: dict[str, torch.nn.Module] = {"vae": vae}
    optimizer = torch.optim.AdamW(trainable([vae]), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    stage = Stage(
        "vae",
        run / "vae",
        modules,
        optimizer,
        peak_rate=PEAK_RATE,
        warmup=20,
        checkpoint_every=100,
        average=0.99,
    )
    rng = stage.generator(seed)
    pool = draw_pool(rng, POOL, sizes=(512,))

    def learn(_: int, __: float) -> dict[str, float]:
        crops = sample_crops(pool, rng, CROPS_PER_STEP, side=CROP)
        crops = crops.to(device, memory_format=torch.channels_last)
        with torch.no_grad():
            latents = half.encode(functional.avg_pool2d(crops, 2)).latents
        decoded = vae.decode(latents + LATENT_NOISE * torch.randn_like(latents)).sample
        error = (decoded - crops).abs().mean() + (decoded - crops).square().mean()
        distance = (vae.encode(crops).latents - latents).square().mean()
        (error + LATENT_WEIGHT * distance).backward()
        return {"error": error.item(), "distance": distance.item()}

    train_stage(
        stage,
        learn,
        minutes=minutes,
        report=lambda _: save_reconstructions(vae, pool, run / "vae.png", device),
    )
    return vae
