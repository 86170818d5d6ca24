"""Fifth training stage: the decoder learns crisp outlines, while the encoder, and with it the latents, stays.

A latent cell says little more than the mean colour of its pixels, so where an outline runs has to be concluded from the
cells around it. That a denoiser draws outlines that waver by parts of a cell is the larger half of what looks wrong in
its pictures. So the decoder, whose first blocks see whole shapes, is shown such latents together with the picture that
was meant: latents of drawn scenes, warped and noisy, and latents that the denoiser made of captions.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch.nn import functional

from models_registry.builtin import NATIVE_SIZE, SIZE_MULTIPLE
from models_registry.builtin.drawing import draw_scene
from models_registry.builtin.generated import GENERATED
from models_registry.builtin.latents import LatentPool
from models_registry.builtin.optimizer import Muon, split_parameters
from models_registry.builtin.precision import autocast
from models_registry.builtin.scenes import Scene
from models_registry.builtin.training_base import item_odds, scene_odds, worker_threads
from models_registry.builtin.training_half import draw_pool, recolour, save_reconstructions
from models_registry.builtin.training_loop import Stage, train_stage

POOL: Final = 2000  # drawn scenes
PICTURES_PER_STEP: Final = 10
CROPS: Final = 2  # per picture: its latents pass the first blocks but once
WINDOW: Final = 18  # side of a crop in cells of the second stage, which are half as wide as latent cells
MARGIN: Final = 2  # of these, that do not count: what they see beyond the window is missing
CELL: Final = SIZE_MULTIPLE // 2  # pixels of such a cell
PEAK_RATE: Final = 1e-3
EDGE_WEIGHT: Final = 4.0  # how much more a pixel near an edge counts
EDGE: Final = 0.1  # difference between neighbours, of 2, from which there is an edge
EDGE_REACH: Final = 3  # pixels
GENERATED_SHARE: Final = 0.4
CLEAN_SHARE: Final = 0.5  # of the drawn scenes whose latents stay as they are
CLEAN_NOISE: Final = 0.03
NOISE: Final = 0.25  # largest standard deviation laid over warped latents
WARP: Final = 0.5  # largest standard deviation of a displacement, in latent cells
WARP_NODES: Final = (7, 12)  # independent displacements along a side
ANYWHERE: Final = 0.12  # share of crops that need not show an edge


@dataclass
class Example:
    """A picture (3 x height x width, uint8), the latents to draw it from, and where its shapes are."""

    pixels: torch.Tensor
    latents: torch.Tensor
    scene: Scene


@dataclass(frozen=True)
class Crop:
    """A window of one picture of a batch, in cells of the second stage, its pixels and what each of them counts."""

    picture: int
    left: int
    top: int
    pixels: torch.Tensor
    weights: torch.Tensor


@torch.no_grad()
def drawn_examples(vae: AutoencoderTiny, rng: random.Random, device: str) -> list[Example]:
    """Draw and encode scenes in all styles, some in colours outside the palette."""
    examples = []
    for picture in draw_pool(rng, POOL, sizes=(NATIVE_SIZE,), odds=scene_odds):
        pixels = recolour(torch.from_numpy(picture.pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1, rng)
        latents = vae.encode(pixels[None].to(device, memory_format=torch.channels_last)).latents[0].cpu()
        examples.append(Example(((pixels + 1) * 127.5).round().byte(), latents, picture.scene))
    return examples


def generated_examples(folder: Path) -> list[Example]:
    """Return what the denoiser made (`generated.write_generated`), with pictures of what it meant."""
    pool = LatentPool(folder, size=NATIVE_SIZE, style=GENERATED)
    return [
        Example(
            torch.from_numpy(np.array(draw_scene(scene, NATIVE_SIZE))).permute(2, 0, 1).contiguous(),
            latents.float(),
            scene,
        )
        for latents, scene in pool
    ]


def warp(latents: torch.Tensor, *, nodes: int, amount: torch.Tensor) -> torch.Tensor:
    """Displace latents by a smooth random field of `nodes` x `nodes` and `amount` cells (batch x 1 x 1 x 1)."""
    count, side = len(latents), latents.shape[-1]
    field = torch.randn(count, 2, nodes, nodes, device=latents.device)
    field = functional.interpolate(field, size=(side, side), mode="bicubic", align_corners=True)
    straight = torch.eye(2, 3, device=latents.device).expand(count, 2, 3)
    grid = functional.affine_grid(straight, [*latents.shape], align_corners=False)
    grid = grid + (field * amount * 2 / side).permute(0, 2, 3, 1)
    return functional.grid_sample(latents, grid, padding_mode="border", align_corners=False)


def disturb(latents: torch.Tensor, *, generated: torch.Tensor) -> torch.Tensor:
    """Return latents as a denoiser might have made them; a part of the drawn ones and all `generated` ones stay."""
    shape = (len(latents), 1, 1, 1)

    def chance() -> torch.Tensor:
        return torch.rand(shape, device=latents.device)

    nodes = WARP_NODES[int(torch.randint(len(WARP_NODES), ()))]
    warped = warp(latents, nodes=nodes, amount=chance() * WARP)
    warped = warped + chance() * NOISE * torch.randn_like(latents)
    kept = latents + CLEAN_NOISE * torch.randn_like(latents)
    return torch.where(generated.view(shape) | (chance() < CLEAN_SHARE), kept, warped)


def sample_crops(examples: list[Example], rng: random.Random) -> Iterator[Crop]:
    """Cut `CROPS` windows from each picture, most of them at an outline; margins inside the picture count nothing."""
    for index, example in enumerate(examples):
        cells = example.pixels.shape[-1] // CELL
        for _ in range(CROPS):
            items = example.scene.items
            item = rng.choices(items, weights=[item_odds(item) for item in items])[0]
            reach = 1.05 * item.radius
            x, y = item.x + rng.uniform(-reach, reach), item.y + rng.uniform(-reach, reach)
            if rng.random() < ANYWHERE:
                x, y = rng.random(), rng.random()
            left, top = (min(cells - WINDOW, max(0, round(middle * cells - WINDOW / 2))) for middle in (x, y))
            weights = torch.zeros(1, WINDOW * CELL, WINDOW * CELL)
            across, down = (
                slice(
                    0 if start == 0 else MARGIN * CELL,
                    None if start == cells - WINDOW else -MARGIN * CELL,
                )
                for start in (left, top)
            )
            weights[:, down, across] = 1
            pixels = example.pixels[
                :, top * CELL : (top + WINDOW) * CELL, left * CELL : (left + WINDOW) * CELL
            ]
            yield Crop(index, left, top, pixels.float() / 127.5 - 1, weights)


def decode_crops(vae: AutoencoderTiny, latents: torch.Tensor, crops: list[Crop]) -> torch.Tensor:
    """Decode windows of pictures: the first two stages whole, so that they see all, the costly ones as crops."""
    layers = list(vae.decoder.layers)
    enlarging = [index for index, layer in enumerate(layers) if isinstance(layer, torch.nn.Upsample)]
    reach = vae.config.latent_magnitude
    features = torch.tanh(latents / reach) * reach
    for layer in layers[: enlarging[1]]:
        features = layer(features)
    windows = [
        features[crop.picture, :, crop.top : crop.top + WINDOW, crop.left : crop.left + WINDOW]
        for crop in crops
    ]
    pixels = torch.stack(windows).contiguous(memory_format=torch.channels_last)
    for layer in layers[enlarging[1] :]:
        pixels = layer(pixels)
    return pixels * 2 - 1


def near_edges(pixels: torch.Tensor) -> torch.Tensor:
    """Return 1 within `EDGE_REACH` pixels of an edge, else 0 (batch x 1 x height x width)."""
    right = functional.pad((pixels[..., 1:] - pixels[..., :-1]).abs(), (0, 1)).amax(1, keepdim=True)
    down = functional.pad((pixels[..., 1:, :] - pixels[..., :-1, :]).abs(), (0, 0, 0, 1)).amax(
        1, keepdim=True
    )
    edges = (torch.maximum(right, down) > EDGE).float()
    return functional.max_pool2d(edges, 2 * EDGE_REACH + 1, 1, EDGE_REACH)


def train_decoder(
    run: Path, vae: AutoencoderTiny, *, minutes: float, seed: int, device: str, precision: str = "fp32"
) -> AutoencoderTiny:
    """Train, or train on from `run`/decoder, the decoder of `vae` for `minutes` in all; return the averaged one.

    Uses what `generated.write_generated` has written to `run`/scenes, if there is some.
    """
    vae.to(device, memory_format=torch.channels_last)
    vae.encoder.requires_grad_(requires_grad=False)
    modules: dict[str, torch.nn.Module] = {"decoder": vae.decoder}
    optimizer = Muon(*split_parameters(modules), lr=PEAK_RATE, weight_decay=0.0, threads=worker_threads())
    stage = Stage(
        "decoder",
        run / "decoder",
        modules,
        optimizer,
        peak_rate=PEAK_RATE,
        warmup=30,
        checkpoint_every=100,
        average=0.995,
    )
    rng = stage.generator(seed)
    drawn, generated = drawn_examples(vae, rng, device), generated_examples(run / "scenes")
    meant = round(GENERATED_SHARE * PICTURES_PER_STEP) if generated else 0

    def learn(_: int, __: float) -> dict[str, float]:
        chosen = rng.choices(generated, k=meant) if meant else []
        chosen += rng.choices(drawn, k=PICTURES_PER_STEP - meant)
        made = torch.arange(PICTURES_PER_STEP, device=device) < meant
        latents = torch.stack([example.latents for example in chosen]).to(device)
        latents = disturb(latents, generated=made).contiguous(memory_format=torch.channels_last)
        crops = list(sample_crops(chosen, rng))
        wanted = torch.stack([crop.pixels for crop in crops]).to(device)
        weights = torch.stack([crop.weights for crop in crops]).to(device)
        with autocast(device, precision):
            decoded = decode_crops(vae, latents, crops)
        weights = weights * (1 + EDGE_WEIGHT * near_edges(wanted))
        error = decoded.float() - wanted
        loss = (weights * (error.abs() + error.square())).sum() / weights.sum() / 3
        loss.backward()
        return {"loss": loss.item()}

    shown = draw_pool(rng, 8, sizes=(NATIVE_SIZE,))
    train_stage(
        stage,
        learn,
        minutes=minutes,
        report=lambda _: save_reconstructions(vae, shown, run / "decoder.png", device),
    )
    return vae
