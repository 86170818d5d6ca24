"""Second training stage: the autoencoder for half-size pictures, on small crops of drawn scenes."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from tqdm import tqdm

from models_registry.builtin.architecture import build_half_vae
from models_registry.builtin.checkpoints import trainable
from models_registry.builtin.drawing import draw_scene
from models_registry.builtin.scenes import Scene, Style, sample_scene
from models_registry.builtin.training_loop import Stage, train_stage

CROP: Final = 64
CROPS_PER_STEP: Final = 24
POOL: Final = 1600  # scenes drawn once; crops are cut from them all the time
CHOICE: Final = 8  # scenes of which one is taken where some come more often than others
PEAK_RATE: Final = 1.5e-3
SPREAD: Final = 0.35  # of the channels of a picture in [0, 1], about
MOMENTS: Final = 0.02  # weight of the loss that makes latents white: zero mean, unit variance, uncorrelated
LATENT_NOISE: Final = 0.08  # the decoder learns to look past the small errors that sampling leaves


@dataclass(frozen=True)
class Picture:
    """A drawn scene and where its shapes are, so that most crops show an edge."""

    pixels: np.ndarray  # height x width x 3, uint8
    scene: Scene


def _pass_through(layer: torch.nn.Conv2d) -> None:
    """Add to a layer of as many outputs as inputs that each channel goes on as it is, or as the mean of 2x2 pixels."""
    outputs, inputs = layer.weight.shape[:2]
    if outputs != inputs:
        return
    for channel in range(outputs):
        if layer.stride == (2, 2):
            layer.weight[channel, channel, 1:, 1:] += 0.25
        else:
            layer.weight[channel, channel, 1, 1] += 1


@torch.no_grad()
def start_as_thumbnail(vae: AutoencoderTiny) -> None:
    """Set starting weights with which the autoencoder shrinks and enlarges the picture, plus random features.

    The first three latent channels start as the mean colour of their 8x8 pixels, and the decoder starts by painting
    that colour. From torch's own random weights, so deep and plain a network needs most of its time to find colour.
    """
    for name, module in vae.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                module.bias.zero_()
            if ".conv." in name:  # inside a residual block, whose skip carries the picture
                module.weight.mul_(0.1 if name.endswith("conv.4") else 1.0)
            else:
                module.weight.mul_(0.2)
                _pass_through(module)
    first, last = vae.encoder.layers[0], vae.encoder.layers[-1]
    enter, leave = vae.decoder.layers[0], vae.decoder.layers[-1]
    for layer, gain in ((first, 1.0), (last, 1 / SPREAD), (enter, 1.0), (leave, SPREAD)):
        for channel in range(3):
            layer.weight[channel, channel] = 0
            layer.weight[channel, channel, 1, 1] = gain
    last.bias[:3] = -0.5 / SPREAD
    leave.bias += 0.5
    # a ReLU stands between latents and decoder, so negative values travel in channels of their own
    for channel in range(3):
        enter.weight[3 + channel] = -enter.weight[channel]
        leave.weight[channel, 3:6] = 0
        leave.weight[channel, 3 + channel, 1, 1] = -SPREAD


def draw_pool(
    rng: random.Random,
    count: int,
    *,
    sizes: tuple[int, ...] = (256, 256, 256, 512),
    odds: Callable[[Scene], float] | None = None,
) -> list[Picture]:
    """Draw training scenes in all styles, at these sizes in turn; `odds` says how often a scene is taken."""
    pool = []
    for index in tqdm(range(count), desc="drawing", mininterval=5):
        scenes = [
            sample_scene(rng, held_out=False, pairs=0.6, splits=0.3) for _ in range(CHOICE if odds else 1)
        ]
        scene = rng.choices(scenes, weights=[odds(scene) for scene in scenes] if odds else None)[0]
        styles: list[Style] = ["filled", "filled", "filled", "outline", "pastel"]
        picture = draw_scene(scene, sizes[index % len(sizes)], style=rng.choice(styles), rng=rng)
        pool.append(Picture(np.asarray(picture), scene))
    return pool


def sample_crops(pool: list[Picture], rng: random.Random, count: int, *, side: int = CROP) -> torch.Tensor:
    """Return `count` crops of `side` pixels as floats from -1 to 1, some with other colours or a soft gradient laid over."""
    crops = []
    for _ in range(count):
        picture = rng.choice(pool)
        whole = picture.pixels.shape[0]
        item = rng.choice(picture.scene.items)
        reach = item.radius * 1.15
        left, top = (
            min(whole - side, max(0, round((centre + rng.uniform(-reach, reach)) * whole) - side // 2))
            for centre in (item.x, item.y)
        )
        crop = torch.from_numpy(picture.pixels[top : top + side, left : left + side].copy())
        crops.append(recolour(crop.permute(2, 0, 1).float() / 127.5 - 1, rng))
    return torch.stack(crops)


def recolour(crop: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Give a third of the crops colours outside the palette, so that any picture survives the autoencoder."""
    draw = rng.random()
    if draw < 0.7:
        return crop
    order = rng.sample(range(3), 3)
    signs = torch.tensor([rng.choice((-1.0, 1.0)) * rng.uniform(0.6, 1) for _ in range(3)])
    crop = crop[order] * signs[:, None, None] + rng.uniform(-0.3, 0.3)
    if draw > 0.9:
        ramp = torch.linspace(-1, 1, crop.shape[-1])
        across, down = (torch.tensor([rng.uniform(-0.5, 0.5) for _ in range(3)]) for _ in range(2))
        crop = crop + across[:, None, None] * ramp[None, None] + down[:, None, None] * ramp[None, :, None]
    return crop.clamp(-1, 1)


def whiteness(latents: torch.Tensor) -> torch.Tensor:
    """Return how far the channels of a batch of latents are from zero mean and unit covariance."""
    flat = latents.transpose(0, 1).flatten(1)
    mean = flat.mean(1, keepdim=True)
    covariance = (flat - mean) @ (flat - mean).T / flat.shape[1]
    return mean.square().sum() + (covariance - torch.eye(len(flat), device=flat.device)).square().sum()


def train_half_vae(run: Path, *, minutes: float, seed: int, device: str) -> AutoencoderTiny:
    """Train, or train on from `run`/half, for `minutes` in all; return the averaged half-size autoencoder."""
    torch.manual_seed(seed)
    vae = build_half_vae().to(device, memory_format=torch.channels_last)
    start_as_thumbnail(vae)
    modules: dict[str, torch.nn.Module] = {"vae": vae}
    optimizer = torch.optim.AdamW(trainable([vae]), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    stage = Stage(
        "half",
        run / "half",
        modules,
        optimizer,
        peak_rate=PEAK_RATE,
        warmup=50,
        checkpoint_every=200,
        average=0.998,
    )
    rng = stage.generator(seed)
    pool = draw_pool(rng, POOL)

    def learn(_: int, __: float) -> dict[str, float]:
        crops = sample_crops(pool, rng, CROPS_PER_STEP).to(device, memory_format=torch.channels_last)
        latents = vae.encode(crops).latents
        decoded = vae.decode(latents + LATENT_NOISE * torch.randn_like(latents)).sample
        error = (decoded - crops).abs().mean() + (decoded - crops).square().mean()
        (error + MOMENTS * whiteness(latents)).backward()
        return {"error": error.item()}

    train_stage(
        stage,
        learn,
        minutes=minutes,
        report=lambda _: save_reconstructions(vae, pool, run / "half.png", device),
    )
    return vae


@torch.no_grad()
def save_reconstructions(vae: AutoencoderTiny, pool: list[Picture], path: Path, device: str) -> None:
    """Write a sheet of pictures (above) and what the autoencoder makes of them (below)."""
    pictures = [picture.pixels for picture in pool if len(picture.pixels) == len(pool[0].pixels)][:8]
    batch = torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    decoded = vae.decode(vae.encode(batch).latents).sample.clamp(-1, 1)
    rows = [torch.cat(list(half), dim=2) for half in (batch, decoded)]
    sheet = ((torch.cat(rows, dim=1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    Image.fromarray(sheet.cpu().numpy()).save(path)
