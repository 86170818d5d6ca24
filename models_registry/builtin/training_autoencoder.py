"""Second and third training stage: the autoencoder, then its decoder alone, on scenes drawn for every step anew.

Four channels per 16x16 pixels cannot say where an outline runs, so the decoder concludes it from many cells: its latents
are disturbed while it learns, as a denoiser would disturb them.
"""

from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderTiny
from torch.nn import functional

from models_registry.builtin import NATIVE_SIZE, SIZE_MULTIPLE
from models_registry.builtin.rendering import SceneBatch, render
from models_registry.builtin.training_loop import Inputs, Learner, Loss, train_stage

PICTURES: Final = 64  # per step
CROPS: Final = 2  # per picture: its latents pass the first blocks but once
WINDOW: Final = 18  # side of a crop in cells of the second stage, which are half as wide as latent cells
MARGIN: Final = 2  # of these, that do not count: what they see beyond the window is missing
CELL: Final = SIZE_MULTIPLE // 2  # pixels of such a cell
ANYWHERE: Final = 0.12  # share of crops that need not show an edge
PEAK_RATE: Final = 1e-3
AVERAGE: Final = 0.998
EDGE_WEIGHT: Final = 4.0  # how much more a pixel near an edge counts
EDGE: Final = 0.1  # difference between neighbours, of 2, from which there is an edge
EDGE_REACH: Final = 3  # pixels
MOMENTS: Final = 0.02  # weight of the loss that makes latents white: zero mean, unit variance, uncorrelated
CLEAN_SHARE: Final = 0.4  # of pictures whose latents hardly change
CLEAN_NOISE: Final = 0.03
NOISE: Final = 0.3  # largest standard deviation laid over the others' latents
WARP: Final = (
    0.4  # largest standard deviation of a displacement, in latent cells, once the encoder stays as it is
)
WARP_NODES: Final = 9  # independent displacements along a side
SPREAD: Final = 0.35  # of the channels of a picture in [0, 1], about


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

    The first three latent channels start as the mean colour of their pixels, and the decoder starts by painting
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


def whiteness(latents: torch.Tensor) -> torch.Tensor:
    """Return how far the channels of a batch of latents are from zero mean and unit covariance."""
    flat = latents.transpose(0, 1).flatten(1)
    mean = flat.mean(1, keepdim=True)
    covariance = (flat - mean) @ (flat - mean).T / flat.shape[1]
    return mean.square().sum() + (covariance - torch.eye(len(flat), device=flat.device)).square().sum()


def recolour(pictures: torch.Tensor) -> torch.Tensor:
    """Give a third of pictures colours outside the palette, some with a soft gradient, so that any picture survives."""
    count, device = len(pictures), pictures.device

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, *shape, 1, 1, device=device)

    draw = uniform(0, 1, 1)
    order = torch.rand(count, 3, device=device).argsort(1)
    mixed = pictures.gather(1, order[:, :, None, None].expand_as(pictures))
    signs = torch.where(uniform(0, 1, 3) < 0.5, -1.0, 1.0) * uniform(0.6, 1, 3)
    mixed = mixed * signs + uniform(-0.3, 0.3, 1)
    ramp = torch.linspace(-1, 1, pictures.shape[-1], device=device)
    slopes = uniform(-0.5, 0.5, 3) * ramp + uniform(-0.5, 0.5, 3) * ramp[:, None]
    mixed = torch.where(draw > 0.9, mixed + slopes, mixed).clamp(-1, 1)
    return torch.where(draw > 0.7, mixed, pictures)


def place_windows(scenes: SceneBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return left and top of `CROPS` windows per picture in cells (pictures x CROPS each), most of them at an outline."""
    count, device = len(scenes), scenes.splits.device
    cells = NATIVE_SIZE // CELL
    present = scenes.boxes[:, :, 2] > 0
    second = (torch.rand(count, CROPS, device=device) < 0.5) & present[:, 1:]
    boxes = torch.where(second[..., None], scenes.boxes[:, 1:], scenes.boxes[:, :1])
    reach = 1.05 * boxes[..., 2:] * (2 * torch.rand(count, CROPS, 2, device=device) - 1)
    anywhere = torch.rand(count, CROPS, 1, device=device) < ANYWHERE
    middles = torch.where(anywhere, torch.rand_like(reach), boxes[..., :2] + reach)
    corners = (middles * cells - WINDOW / 2).round().long().clamp(0, cells - WINDOW)
    return corners[..., 0], corners[..., 1]


def cut(pictures: torch.Tensor, left: torch.Tensor, top: torch.Tensor, side: int) -> torch.Tensor:
    """Cut windows of `side` out of pictures; `left` and `top` are pictures x windows."""
    along = torch.arange(side, device=pictures.device)
    rows, columns = top.reshape(-1, 1, 1) + along[:, None], left.reshape(-1, 1, 1) + along
    places = (rows * pictures.shape[-1] + columns).flatten(1)
    repeated = pictures.flatten(2).repeat_interleave(left.shape[1], dim=0)
    windows = repeated.gather(2, places[:, None].expand(-1, repeated.shape[1], -1))
    return windows.unflatten(2, (side, side))


def decode_windows(
    vae: AutoencoderTiny, latents: torch.Tensor, left: torch.Tensor, top: torch.Tensor
) -> torch.Tensor:
    """Decode windows of pictures: the first two stages whole, so that they see all, the costly ones as windows."""
    layers = list(vae.decoder.layers)
    enlarging = [index for index, layer in enumerate(layers) if isinstance(layer, torch.nn.Upsample)]
    reach = vae.config.latent_magnitude
    features = torch.tanh(latents / reach) * reach
    for layer in layers[: enlarging[1]]:
        features = layer(features)
    pixels = cut(features, left, top, WINDOW).contiguous(memory_format=torch.channels_last)
    for layer in layers[enlarging[1] :]:
        pixels = layer(pixels)
    return pixels.float() * 2 - 1


def counting(left: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    """Return 1 for the pixels of windows that count, 0 for margins inside the picture (windows x 1 x side x side)."""
    along = torch.arange(WINDOW * CELL, device=left.device) // CELL
    last = NATIVE_SIZE // CELL - WINDOW

    def inner(start: torch.Tensor) -> torch.Tensor:
        start = start.reshape(-1, 1)
        return ((along >= MARGIN) | (start == 0)) & ((along < WINDOW - MARGIN) | (start == last))

    return (inner(top)[:, None, :, None] & inner(left)[:, None, None, :]).float()


def near_edges(pixels: torch.Tensor) -> torch.Tensor:
    """Return 1 within `EDGE_REACH` pixels of an edge, else 0 (batch x 1 x height x width)."""
    right = functional.pad((pixels[..., 1:] - pixels[..., :-1]).abs(), (0, 1)).amax(1, keepdim=True)
    down = functional.pad((pixels[..., 1:, :] - pixels[..., :-1, :]).abs(), (0, 0, 0, 1)).amax(
        1, keepdim=True
    )
    edges = (torch.maximum(right, down) > EDGE).float()
    return functional.max_pool2d(edges, 2 * EDGE_REACH + 1, 1, EDGE_REACH)


def window_error(vae: AutoencoderTiny, latents: torch.Tensor, inputs: Inputs) -> torch.Tensor:
    """Return how far decoded windows are from the picture's, outlines counting more."""
    left, top = inputs["left"], inputs["top"]
    wanted = cut(inputs["pixels"], left * CELL, top * CELL, WINDOW * CELL)
    decoded = decode_windows(vae, latents.to(vae.dtype), left, top)
    weights = counting(left, top) * (1 + EDGE_WEIGHT * near_edges(wanted))
    error = decoded - wanted
    return (weights * (error.abs() + error.square())).sum() / weights.sum() / 3


def noisy(latents: torch.Tensor) -> torch.Tensor:
    """Return latents with noise of a random strength, hardly any on a part of the pictures."""
    draw, strength = torch.rand(2, len(latents), 1, 1, 1, device=latents.device)
    scale = torch.where(draw < CLEAN_SHARE, CLEAN_NOISE, NOISE * strength)
    return latents + scale * torch.randn_like(latents)


def warped(latents: torch.Tensor) -> torch.Tensor:
    """Return latents displaced by a smooth random field of a random strength, half of them as they are."""
    count, side = len(latents), latents.shape[-1]
    draw, strength = torch.rand(2, count, 1, 1, 1, device=latents.device)
    nodes = torch.randn(count, 2, WARP_NODES, WARP_NODES, device=latents.device)
    field = functional.interpolate(nodes, size=(side, side), mode="bicubic", align_corners=True)
    straight = torch.eye(2, 3, device=latents.device).expand(count, 2, 3)
    grid = functional.affine_grid(straight, [*latents.shape], align_corners=False)
    grid = grid + (field * strength * WARP * 2 / side).permute(0, 2, 3, 1)
    moved = functional.grid_sample(latents, grid, padding_mode="border", align_corners=False)
    return torch.where(draw < 0.5, moved, latents)


def autoencoder_loss(modules: torch.nn.ModuleDict, inputs: Inputs) -> torch.Tensor:
    """Return the error of reconstructions from noisy latents, and how far latents are from white."""
    vae = modules["vae"]
    latents = vae.encode(inputs["pixels"].to(vae.dtype)).latents.float()
    return window_error(vae, noisy(latents), inputs) + MOMENTS * whiteness(latents)


def decoder_loss(modules: torch.nn.ModuleDict, inputs: Inputs) -> torch.Tensor:
    """Return the error of reconstructions from latents that are displaced and noisy."""
    vae = modules["vae"]
    with torch.no_grad():
        latents = noisy(warped(vae.encode(inputs["pixels"].to(vae.dtype)).latents.float()))
    return window_error(vae, latents, inputs)


def train_autoencoder(
    run: Path,
    vae: AutoencoderTiny,
    scenes: SceneBatch,
    *,
    minutes: float,
    precision: str,
    decoder: bool = False,
    pictures: int = PICTURES,
) -> None:
    """Train `vae`, or with `decoder` only how it draws, on scenes on its device, for `minutes` in all."""
    vae.encoder.requires_grad_(not decoder)
    learner = Learner({"vae": vae}, precision=precision, average=AVERAGE)
    loss: Loss = decoder_loss if decoder else autoencoder_loss

    def learn(_: float) -> tuple[Loss, Inputs]:
        chosen = scenes[torch.randint(len(scenes), (pictures,), device=scenes.splits.device)]
        left, top = place_windows(chosen)
        pixels = recolour(render(chosen, NATIVE_SIZE, NATIVE_SIZE))
        return loss, {"pixels": pixels, "left": left, "top": top}

    name = "decoder" if decoder else "autoencoder"
    train_stage(name, run, learner, learn, minutes=minutes, peak_rate=PEAK_RATE)
