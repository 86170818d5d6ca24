"""Third training stage: the denoiser, on encoded scenes, small ones first."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
from diffusers import DDIMScheduler
from PIL import Image

from models_registry.builtin import DEFAULT_GUIDANCE, DEFAULT_STEPS, NATIVE_SIZE
from models_registry.builtin.architecture import Parts, build_pipeline, build_scheduler
from models_registry.builtin.captions import plain_caption, sample_caption
from models_registry.builtin.checkpoints import load_named_state
from models_registry.builtin.latents import LatentPool
from models_registry.builtin.optimizer import Muon, split_parameters
from models_registry.builtin.precision import autocast, prepare_unet
from models_registry.builtin.scenes import Item, Scene, sample_scene
from models_registry.builtin.training_loop import Stage, train_stage
from models_registry.builtin.training_text import tokenize

PEAK_RATE: Final = 1.5e-3
UNCONDITIONAL: Final = 0.1  # share of captions replaced by the empty one, for classifier-free guidance
SNR_CAP: Final = 5.0  # almost clean pictures count less above this ratio (https://arxiv.org/abs/2303.09556)
WORKERS: Final = 2  # threads that share the batch
EMPHASIS_ENDS: Final = 0.9  # share of the time after which the emphasis on objects stays at its end
EMPHASIS_RADIUS: Final = (
    0.17  # of a medium shape: smaller ones have more emphasis per cell, so that all count alike
)
SIZES: Final = (256, 512)
BATCH: Final[dict[int, int]] = {256: 128, 512: 64}
# What a picture shows is decided at high noise, so late timesteps are drawn more often; in larger pictures even more.
TIME_SHIFT: Final[dict[int, float]] = {256: 2.5, 512: 3.0}
# A denoiser that knows what to draw where has to learn outlines, and they are decided at less noise.
OUTLINE_SHIFT: Final[dict[int, float]] = {256: 1.5, 512: 1.5}
# Up to this share of the time, steps have these sizes with these odds: a small picture costs a quarter of a native
# one, and what the words mean is learned from it as well.
CURRICULUM: Final[tuple[tuple[float, dict[int, float]], ...]] = (
    (0.3, {256: 1.0}),
    (0.4, {256: 0.5, 512: 0.5}),
    (1.01, {256: 0.1, 512: 0.9}),
)


def velocity_loss(
    parts: Parts,
    scheduler: DDIMScheduler,
    latents: torch.Tensor,
    captions: list[str],
    *,
    shift: float,
    emphasis: torch.Tensor | None = None,
    precision: str = "fp32",
) -> torch.Tensor:
    """Return the velocity-prediction loss of a batch at random timesteps; a `shift` above 1 draws late ones more often.

    `emphasis` (batch x 1 x height x width) weighs the cells of the latents.
    """
    device = latents.device
    ids = tokenize(parts.tokenizer, captions).to(device)
    draw = torch.rand(len(latents), device=device)
    steps = (shift * draw / (1 + (shift - 1) * draw) * 1000).long().clamp(0, 999)
    noise = torch.randn_like(latents)
    noisy = scheduler.add_noise(latents, noise, steps)
    wanted = scheduler.get_velocity(latents, noise, steps)
    with torch.no_grad():
        hidden = parts.text_encoder(ids).last_hidden_state
    with autocast(device.type, precision):
        predicted = parts.unet(noisy, steps, hidden).sample
    alphas = scheduler.alphas_cumprod.to(device)[steps]
    ratio = alphas / (1 - alphas)
    weight = ((1 + SNR_CAP) / (1 + ratio)).clamp(max=1)
    error = (predicted.float() - wanted).square()
    if emphasis is not None:
        error = error * (emphasis / emphasis.mean((1, 2, 3), keepdim=True))
    return (weight * error.mean((1, 2, 3))).mean()


def object_emphasis(scenes: list[Scene], cells: int, *, extra: float) -> torch.Tensor:
    """Return weights for latents of `cells` x `cells`: 1, and more in a box around every shape.

    Shapes cover a small part of a picture and would be learned long after the backgrounds, small ones last. `extra` is
    what a medium shape's cells count more; it grows as a shape's area falls.
    """
    weights = torch.ones(len(scenes), 1, cells, cells)
    for index, scene in enumerate(scenes):
        for item in scene.items:
            reach = 1.2 * item.radius
            left, right, top, bottom = (
                min(cells, max(0, round(edge * cells)))
                for edge in (item.x - reach, item.x + reach, item.y - reach, item.y + reach)
            )
            box = weights[index, :, top:bottom, left:right]
            box.clamp_(min=1 + extra * (EMPHASIS_RADIUS / item.radius) ** 2)
    return weights


def item_odds(item: Item) -> float:
    """Return how often a shape is learned from, compared with an easy one: small ones and stars come more often."""
    return 1.0 + (item.size == "small") + 2 * (item.shape == "star")


def scene_odds(scene: Scene) -> float:
    """Return how often a scene is learned from, compared with one whose shapes are easy."""
    return 1.0 + sum(item_odds(item) - 1 for item in scene.items)


@dataclass(frozen=True)
class Batch:
    """What one step learns from."""

    latents: torch.Tensor
    captions: list[str]
    emphasis: torch.Tensor
    shift: float


def _learn(parts: Parts, scheduler: DDIMScheduler, batch: Batch, precision: str, worker: int) -> float:
    """Add one worker's share of a batch to the gradients; return its part of the loss."""
    each = len(batch.captions) // WORKERS
    share = slice(worker * each, (worker + 1) * each)
    loss = velocity_loss(
        parts,
        scheduler,
        batch.latents[share],
        batch.captions[share],
        shift=batch.shift,
        emphasis=batch.emphasis[share],
        precision=precision,
    )
    (loss / WORKERS).backward()
    return float(loss.item()) / WORKERS


def worker_threads() -> ThreadPoolExecutor:
    """Return the threads that share a step's batch: each runs its operators on one core.

    The operators of so small a network are too short to be parted themselves (two cores gave 1.1 times one).
    """
    return ThreadPoolExecutor(WORKERS, initializer=torch.set_num_threads, initargs=(1,))


@dataclass(frozen=True)
class Recipe:
    """How a denoiser is trained: from nothing, or further from weights that draw already."""

    peak_rate: float
    average: float  # decay of the averaged weights
    emphasis: tuple[float, float]  # how much more an object's cells count, at the start and at the end
    shift: dict[int, float]
    # Up to a share of the time, steps have these sizes with these odds.
    curriculum: tuple[tuple[float, dict[int, float]], ...]
    odds: Callable[[Scene], float] | None = None  # how often scenes are drawn; None draws all alike


FROM_NOTHING: Final = Recipe(PEAK_RATE, 0.998, (6.0, 0.0), TIME_SHIFT, CURRICULUM)
FURTHER: Final = Recipe(
    1e-3, 0.998, (4.0, 1.0), OUTLINE_SHIFT, ((1.01, {256: 0.06, 512: 0.94}),), odds=scene_odds
)


def choose_size(recipe: Recipe, share: float, rng: random.Random, there: list[int]) -> int:
    """Return the picture size of the next step, among those that have latents."""
    odds = next(odds for until, odds in recipe.curriculum if share < until)
    odds = {size: chance for size, chance in odds.items() if size in there} or {there[-1]: 1.0}
    return rng.choices([*odds], weights=[*odds.values()])[0]


def train_base(
    run: Path,
    parts: Parts,
    *,
    minutes: float,
    seed: int,
    device: str,
    recipe: Recipe = FROM_NOTHING,
    precision: str = "fp32",
    sheet_every: int = 1000,
) -> Parts:
    """Train, or train on from `run`/base, for `minutes` in all; return the parts with averaged weights.

    `parts` come with a trained text encoder. Shards of latents may still be arriving in `run`/scenes.
    """
    # The text encoder stays as it is: trained along, it forgot within minutes every word that was not in use yet.
    parts.text_encoder.to(device).requires_grad_(requires_grad=False)
    parts.unet.train()
    prepare_unet(parts.unet, device=device, precision=precision)
    modules: dict[str, torch.nn.Module] = {"unet": parts.unet}
    threads = worker_threads()
    optimizer = Muon(*split_parameters(modules), lr=recipe.peak_rate, weight_decay=0.01, threads=threads)
    stage = Stage(
        "base",
        run / "base",
        modules,
        optimizer,
        peak_rate=recipe.peak_rate,
        warmup=60,
        checkpoint_every=100,
        average=recipe.average,
    )
    rng = stage.generator(seed)
    pools = {size: LatentPool(run / "scenes", size=size, odds=recipe.odds) for size in SIZES}
    scheduler = build_scheduler()

    def learn(_: int, share: float) -> dict[str, float]:
        size = choose_size(recipe, share, rng, [side for side in SIZES if len(pools[side])])
        latents, scenes = pools[size].sample(rng, BATCH[size])
        latents = latents.to(device, memory_format=torch.channels_last)
        captions = ["" if rng.random() < UNCONDITIONAL else sample_caption(scene, rng) for scene in scenes]
        first, last = recipe.emphasis
        extra = first + (last - first) * min(1.0, share / EMPHASIS_ENDS)
        emphasis = object_emphasis(scenes, latents.shape[-1], extra=extra).to(device)
        batch = Batch(latents, captions, emphasis, recipe.shift[size])
        shares = partial(_learn, parts, scheduler, batch, precision)
        return {f"loss {size}": sum(threads.map(shares, range(WORKERS)))}

    def report(step: int) -> None:
        for pool in pools.values():
            pool.refresh()
        if step % sheet_every == 0 and stage.ema:
            trained = {name: tensor.clone() for name, tensor in stage.weights().items()}
            load_named_state(modules, stage.ema.shadow)
            save_samples(parts, run / "sheets" / f"{step:06}.png", size=NATIVE_SIZE)
            load_named_state(modules, trained)

    train_stage(stage, learn, minutes=minutes, report=report)
    return parts


def sheet_scenes(count: int = 24) -> list[Scene]:
    """Return the held-out scenes that every sample sheet shows, so that sheets can be compared."""
    rng = random.Random("sample sheet")
    return [sample_scene(rng, held_out=True) for _ in range(count)]


@torch.no_grad()
def save_samples(
    parts: Parts, path: Path, *, size: int, count: int = 24, guidance: float = DEFAULT_GUIDANCE
) -> None:
    """Write a sheet of pictures of held-out prompts, `size` pixels each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pipeline = build_pipeline(parts)
    pipeline.set_progress_bar_config(disable=True)
    prompts = [plain_caption(scene) for scene in sheet_scenes(count)]
    seeds = [torch.Generator().manual_seed(index) for index in range(count)]
    images = pipeline(
        prompts,
        num_inference_steps=DEFAULT_STEPS,
        guidance_scale=guidance,
        height=size,
        width=size,
        generator=seeds,
    ).images
    columns = 8
    sheet = Image.new("RGB", (columns * 128, -(-count // columns) * 128))
    for index, image in enumerate(images):
        sheet.paste(image.resize((128, 128)), (index % columns * 128, index // columns * 128))
    sheet.save(path)
    path.with_suffix(".txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
