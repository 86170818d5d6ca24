"""Third training stage: the denoiser, on encoded scenes, small ones first."""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
from diffusers import DDIMScheduler
from PIL import Image
from safetensors.torch import load_file
from tqdm import tqdm

from models_registry.builtin import DEFAULT_GUIDANCE
from models_registry.builtin.architecture import Parts, build_pipeline, build_scheduler
from models_registry.builtin.captions import plain_caption, sample_caption
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
from models_registry.builtin.latents import LatentPool
from models_registry.builtin.optimizer import Muon, split_parameters
from models_registry.builtin.scenes import Scene, sample_scene
from models_registry.builtin.training_text import tokenize

PEAK_RATE: Final = 1.5e-3
UNCONDITIONAL: Final = 0.1  # share of captions replaced by the empty one, for classifier-free guidance
SNR_CAP: Final = 5.0  # almost clean pictures count less above this ratio (https://arxiv.org/abs/2303.09556)
WORKERS: Final = 2  # threads that share the batch
EMPHASIS: Final = 6.0  # how much more an object's cells count at the start
EMPHASIS_ENDS: Final = (
    0.9  # share of the time after which all cells count alike, so that nothing stays biased
)
SIZES: Final = (256, 512)
BATCH: Final[dict[int, int]] = {256: 32, 512: 16}
# What a picture shows is decided at high noise, so late timesteps are drawn more often; in larger pictures even more.
TIME_SHIFT: Final[dict[int, float]] = {256: 2.5, 512: 3.0}
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
) -> torch.Tensor:
    """Return the velocity-prediction loss of a batch at random timesteps; a `shift` above 1 draws late ones more often.

    `emphasis` (batch x 1 x height x width) weighs the cells of the latents.
    """
    device = latents.device
    ids = tokenize(parts.tokenizer, captions).to(device)
    with torch.no_grad():
        hidden = parts.text_encoder(ids).last_hidden_state
    draw = torch.rand(len(latents), device=device)
    steps = (shift * draw / (1 + (shift - 1) * draw) * 1000).long().clamp(0, 999)
    noise = torch.randn_like(latents)
    noisy = scheduler.add_noise(latents, noise, steps)
    wanted = scheduler.get_velocity(latents, noise, steps)
    predicted = parts.unet(noisy, steps, hidden).sample
    alphas = scheduler.alphas_cumprod.to(device)[steps]
    ratio = alphas / (1 - alphas)
    weight = ((1 + SNR_CAP) / (1 + ratio)).clamp(max=1)
    error = (predicted - wanted).square()
    if emphasis is not None:
        error = error * (emphasis / emphasis.mean((1, 2, 3), keepdim=True))
    return (weight * error.mean((1, 2, 3))).mean()


def object_emphasis(scenes: list[Scene], cells: int, *, extra: float) -> torch.Tensor:
    """Return weights for latents of `cells` x `cells`: 1, and 1 + `extra` in a box around every shape.

    Shapes cover a small part of a picture and would be learned long after the backgrounds.
    """
    weights = torch.ones(len(scenes), 1, cells, cells)
    for index, scene in enumerate(scenes):
        for item in scene.items:
            reach = 1.2 * item.radius
            left, right, top, bottom = (
                min(cells, max(0, round(edge * cells)))
                for edge in (item.x - reach, item.x + reach, item.y - reach, item.y + reach)
            )
            weights[index, :, top:bottom, left:right] = 1 + extra
    return weights


@dataclass(frozen=True)
class Batch:
    """What one step learns from."""

    latents: torch.Tensor
    captions: list[str]
    emphasis: torch.Tensor
    shift: float


def _learn(parts: Parts, scheduler: DDIMScheduler, batch: Batch, worker: int) -> float:
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
    )
    (loss / WORKERS).backward()
    return float(loss.item()) / WORKERS


def worker_threads() -> ThreadPoolExecutor:
    """Return the threads that share a step's batch: each runs its operators on one core.

    The operators of so small a network are too short to be parted themselves (two cores gave 1.1 times one).
    """
    return ThreadPoolExecutor(WORKERS, initializer=torch.set_num_threads, initargs=(1,))


def choose_size(share: float, rng: random.Random, there: list[int]) -> int:
    """Return the picture size of the next step, among those that have latents."""
    odds = next(odds for until, odds in CURRICULUM if share < until)
    odds = {size: chance for size, chance in odds.items() if size in there} or {there[-1]: 1.0}
    return rng.choices([*odds], weights=[*odds.values()])[0]


def train_base(
    run: Path, parts: Parts, *, minutes: float, seed: int, device: str, sheet_every: int = 1000
) -> Parts:
    """Train, or train on from `run`/base, for `minutes` in all; return the parts with averaged weights.

    `parts` come with a trained text encoder. Shards of latents may still be arriving in `run`/scenes.
    """
    torch.manual_seed(seed)
    modules: dict[str, torch.nn.Module] = {"unet": parts.unet}
    # The text encoder stays as it is: trained along, it forgot within minutes every word that was not in use yet.
    parts.text_encoder.to(device).requires_grad_(requires_grad=False)
    parts.unet.to(device, memory_format=torch.channels_last).train()
    threads = worker_threads()
    optimizer = Muon(*split_parameters(modules), lr=PEAK_RATE, weight_decay=0.01, threads=threads)
    ema = Ema(named_state(modules), decay=0.998)
    folder, progress = run / "base", Progress()
    if folder.exists():
        progress = load_progress(folder)
        load_named_state(modules, load_file(folder / "weights.safetensors"))
        ema.shadow = {
            name: tensor.to(device) for name, tensor in load_file(folder / "ema.safetensors").items()
        }
        load_optimizer(folder, optimizer)
    rng = random.Random(f"{seed} base {progress.step}")
    torch.manual_seed(seed + progress.step)
    pools = {size: LatentPool(run / "scenes", size=size) for size in SIZES}
    scheduler = build_scheduler()
    clock = Clock(progress, minutes=minutes)
    bar = tqdm(initial=progress.step, desc="base", unit="step", mininterval=5)
    mean: dict[int, float] = {}
    while clock.share < 1:
        set_learning_rate(optimizer, cosine_rate(PEAK_RATE, step=progress.step, share=clock.share, warmup=60))
        size = choose_size(clock.share, rng, [side for side in SIZES if len(pools[side])])
        latents, scenes = pools[size].sample(rng, BATCH[size])
        latents = latents.to(device, memory_format=torch.channels_last)
        captions = ["" if rng.random() < UNCONDITIONAL else sample_caption(scene, rng) for scene in scenes]
        extra = EMPHASIS * max(0.0, 1 - clock.share / EMPHASIS_ENDS)
        emphasis = object_emphasis(scenes, latents.shape[-1], extra=extra).to(device)
        optimizer.zero_grad(set_to_none=True)

        learn = partial(_learn, parts, scheduler, Batch(latents, captions, emphasis, TIME_SHIFT[size]))
        loss = sum(threads.map(learn, range(WORKERS)))
        torch.nn.utils.clip_grad_norm_(trainable(modules.values()), 1.0)
        optimizer.step()
        progress.step += 1
        ema.update(named_state(modules), progress.step)
        bar.update()
        mean[size] = mean.get(size, loss) * 0.98 + 0.02 * loss
        if progress.step % 20 == 0:
            losses = {f"loss {side}": f"{value:.4f}" for side, value in mean.items()}
            bar.set_postfix(**losses, share=f"{clock.share:.3f}")
        if progress.step % 100 == 0 or clock.share >= 1:
            for pool in pools.values():
                pool.refresh()
            progress.seconds = clock.seconds
            save_checkpoint(
                folder, weights=named_state(modules), ema=ema.shadow, optimizer=optimizer, progress=progress
            )
        if progress.step % sheet_every == 0:
            trained = named_state(modules)
            trained = {name: tensor.clone() for name, tensor in trained.items()}
            load_named_state(modules, ema.shadow)
            save_samples(parts, run / "sheets" / f"{progress.step:06}.png", size=size)
            load_named_state(modules, trained)
    bar.close()
    load_named_state(modules, ema.shadow)
    return parts


def sheet_scenes(count: int = 24) -> list[Scene]:
    """Return the held-out scenes that every sample sheet shows, so that sheets can be compared."""
    rng = random.Random("sample sheet")
    return [sample_scene(rng, held_out=True) for _ in range(count)]


@torch.no_grad()
def save_samples(
    parts: Parts, path: Path, *, size: int, count: int = 24, guidance: float = DEFAULT_GUIDANCE
) -> None:
    """Write a sheet of pictures of held-out prompts, `size` pixels each, twenty steps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pipeline = build_pipeline(parts)
    pipeline.set_progress_bar_config(disable=True)
    prompts = [plain_caption(scene) for scene in sheet_scenes(count)]
    seeds = [torch.Generator().manual_seed(index) for index in range(count)]
    images = pipeline(
        prompts, num_inference_steps=20, guidance_scale=guidance, height=size, width=size, generator=seeds
    ).images
    columns = 8
    sheet = Image.new("RGB", (columns * 128, -(-count // columns) * 128))
    for index, image in enumerate(images):
        sheet.paste(image.resize((128, 128)), (index % columns * 128, index // columns * 128))
    sheet.save(path)
    path.with_suffix(".txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
