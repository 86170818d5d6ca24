"""Fourth training stage: the denoiser, on scenes that were drawn and encoded once, all on the device that trains."""

import random
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextModel

from models_registry.builtin.architecture import build_scheduler
from models_registry.builtin.rendering import SceneBatch, render
from models_registry.builtin.sampling import CAPTIONS, Sample
from models_registry.builtin.training_loop import PRECISIONS, Inputs, Learner, Loss, train_stage

PEAK_RATE: Final = 1.5e-3
AVERAGE: Final = 0.9993
SNR_CAP: Final = 5.0  # almost clean pictures count less above this ratio (https://arxiv.org/abs/2303.09556)
EMPHASIS_RADIUS: Final = (
    0.17  # of a medium shape: smaller ones have more emphasis per cell, so that all count alike
)
EMPHASIS_REACH: Final = 1.2  # radii
# From the start to the end: how much more a medium shape's cells count, and how often late timesteps come: what a picture
# shows is decided at high noise, where its outlines run at less.
EMPHASIS: Final = (4.0, 1.0)
SHIFT: Final = (2.5, 1.5)
ENCODE_BATCH: Final = 100
LAYOUTS: Final = {"channels last": torch.channels_last, "channels first": torch.contiguous_format}
TRIALS: Final = 16  # steps per layout, of which the second half counts


@dataclass(frozen=True)
class Size:
    """Pictures of one size: what share of the scenes and of the steps has it, and how many make a step."""

    height: int
    width: int
    scenes: float
    steps: float
    batch: int


SIZES: Final = (
    Size(512, 512, 0.76, 0.78, 512),
    Size(256, 256, 0.08, 0.06, 512),
    Size(640, 640, 0.06, 0.06, 256),
    Size(640, 448, 0.05, 0.05, 256),
    Size(448, 640, 0.05, 0.05, 256),
)


@dataclass(frozen=True)
class Pool:
    """Encoded scenes of one size on the device."""

    size: Size
    latents: torch.Tensor  # scenes x 4 x height/16 x width/16, float16
    sample: Sample


@torch.no_grad()
def encode_pools(
    vae: AutoencoderTiny,
    sample: Sample,
    sizes: tuple[Size, ...],
    *,
    precision: str,
    batch: int = ENCODE_BATCH,
) -> list[Pool]:
    """Draw and encode a sample's scenes on the device of `vae`, each in one of the sizes."""
    pools, start = [], 0
    total = sum(size.scenes for size in sizes)
    for size in sizes:
        count = round(len(sample) * size.scenes / total)
        part = sample[start : start + count].to(vae.device)
        start += count
        latents = []
        for first in range(0, len(part), batch):
            pictures = render(part.scenes[first : first + batch], size.height, size.width)
            pictures = pictures.contiguous(memory_format=torch.channels_last)
            with torch.autocast(vae.device.type, torch.bfloat16, enabled=precision == "bf16"):
                latents.append(vae.encode(pictures).latents)
        pools.append(Pool(size, (torch.cat(latents) * vae.config.scaling_factor).half(), part))
    return pools


def object_emphasis(scenes: SceneBatch, rows: int, columns: int, *, extra: float) -> torch.Tensor:
    """Return weights for latents (scenes x 1 x rows x columns): 1, and more in a box around every shape; their mean is 1.

    Shapes cover a small part of a picture and would be learned long after the backgrounds, small ones last. `extra` is
    what a medium shape's cells count more; it grows as a shape's area falls.
    """
    device = scenes.splits.device
    xs = ((torch.arange(columns, device=device) + 0.5) / columns).view(1, 1, 1, columns)
    ys = ((torch.arange(rows, device=device) + 0.5) / rows).view(1, 1, rows, 1)
    x, y, radius = (scenes.boxes[:, :, part, None, None] for part in range(3))
    reach = EMPHASIS_REACH * radius * min(rows, columns)
    inside = ((xs - x).abs() * columns <= reach) & ((ys - y).abs() * rows <= reach) & (radius > 0)
    more = extra * (EMPHASIS_RADIUS / radius.clamp(min=0.05)) ** 2
    weights = 1 + (inside * more).amax(1, keepdim=True)
    return weights / weights.mean((1, 2, 3), keepdim=True)


class VelocityLoss:
    """The loss of velocity prediction at random timesteps; a `shift` above 1 draws late ones more often."""

    def __init__(self, device: torch.device) -> None:
        self._alphas = build_scheduler().alphas_cumprod.to(device)

    def __call__(self, modules: torch.nn.ModuleDict, inputs: Inputs) -> torch.Tensor:
        """Return the loss of latents under text embeddings, cells weighted by `emphasis`."""
        unet, latents = modules["unet"], inputs["latents"]
        draw = torch.rand(len(latents), device=latents.device)
        shift = inputs["shift"]
        steps = (shift * draw / (1 + (shift - 1) * draw) * 1000).long().clamp(0, 999)
        signal = self._alphas[steps]
        kept, added = signal.sqrt().view(-1, 1, 1, 1), (1 - signal).sqrt().view(-1, 1, 1, 1)
        noise = torch.randn_like(latents)
        predicted = unet((kept * latents + added * noise).to(unet.dtype), steps, inputs["hidden"]).sample
        error = (predicted.float() - (kept * noise - added * latents)).square() * inputs["emphasis"]
        weight = ((1 + SNR_CAP) / (1 + signal / (1 - signal))).clamp(max=1)
        return (weight * error.mean((1, 2, 3))).mean()


def between(ends: tuple[float, float], share: float) -> float:
    """Return what lies between two ends after a share of the time."""
    return ends[0] + (ends[1] - ends[0]) * share


def next_batch(
    pools: list[Pool],
    text_encoder: CLIPTextModel,
    rng: random.Random,
    share: float,
    *,
    dtype: torch.dtype,
    largest: int | None = None,
) -> Inputs:
    """Return the next step's inputs, at most `largest` pictures of one size."""
    pool = rng.choices(pools, weights=[pool.size.steps for pool in pools])[0]
    device, count = pool.latents.device, min(largest or pool.size.batch, pool.size.batch)
    picks = torch.randint(len(pool.sample), (count,), device=device)
    said = torch.randint(CAPTIONS, (count,), device=device)
    latents = pool.latents[picks].float()
    with torch.no_grad():
        hidden = text_encoder(pool.sample.ids[picks, said].long()).last_hidden_state
    return {
        "latents": latents,
        "hidden": hidden.to(dtype),
        "emphasis": object_emphasis(
            pool.sample.scenes[picks], *latents.shape[-2:], extra=between(EMPHASIS, share)
        ),
        "shift": torch.full((), between(SHIFT, share), device=device),
    }


def choose_layout(
    unet: UNet2DConditionModel, text_encoder: CLIPTextModel, pool: Pool, *, precision: str
) -> str:
    """Put a denoiser in the memory layout in which its steps are faster, by trying; returns what was measured.

    Convolutions are fastest with channels last, and norms on a card with channels first.
    """
    loss: Loss = VelocityLoss(unet.device)
    inputs = next_batch([pool], text_encoder, random.Random(0), 0.0, dtype=PRECISIONS[precision])
    seconds: dict[str, float] = {}
    for name, layout in LAYOUTS.items():
        unet.to(memory_format=layout)
        trial = Learner({"unet": unet}, precision=precision, average=0.0)
        for step in range(TRIALS):
            if step == TRIALS // 2:
                trial.wait()
                began = time.perf_counter()
            trial.step(loss, inputs, rate=0.0)
        trial.wait()
        seconds[name] = time.perf_counter() - began
        del trial
    best = min(seconds, key=lambda name: seconds[name])
    unet.to(memory_format=LAYOUTS[best])
    took = {name: value / (TRIALS - TRIALS // 2) for name, value in seconds.items()}
    return ", ".join(f"{name} {value * 1000:.1f} ms per step" for name, value in took.items())


def train_denoiser(
    run: Path,
    name: str,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    pools: list[Pool],
    *,
    minutes: float,
    seed: int,
    precision: str,
    peak_rate: float = PEAK_RATE,
    average: float = AVERAGE,
    largest: int | None = None,
) -> None:
    """Train what takes gradients of `unet` on pools on its device, for `minutes` in all.

    The text encoder stays as it is: trained along, it forgot within minutes every word that was not in use yet.
    """
    text_encoder.requires_grad_(requires_grad=False)
    unet.train()
    loss: Loss = VelocityLoss(unet.device)
    rng = random.Random(seed)
    batch = partial(next_batch, pools, text_encoder, rng, dtype=PRECISIONS[precision], largest=largest)
    learner = Learner({"unet": unet}, precision=precision, average=average)
    train_stage(name, run, learner, lambda share: (loss, batch(share)), minutes=minutes, peak_rate=peak_rate)
