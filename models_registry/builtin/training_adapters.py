"""Last training stage: two LoRA adapters on the exported weights, "outline" and "pastel"."""

import random
import shutil
from pathlib import Path
from typing import Final

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from tqdm import tqdm

from models_registry.builtin import WEIGHTS
from models_registry.builtin.architecture import Parts, build_scheduler
from models_registry.builtin.captions import sample_caption
from models_registry.builtin.checkpoints import (
    Clock,
    Progress,
    cosine_rate,
    load_optimizer,
    load_progress,
    save_checkpoint,
    set_learning_rate,
    trainable,
)
from models_registry.builtin.latents import LatentPool, write_shards
from models_registry.builtin.scenes import Style
from models_registry.builtin.training_base import BATCH, TIME_SHIFT, velocity_loss
from models_registry.builtin.training_vae import load_half_vae

STYLES: Final[tuple[Style, ...]] = ("outline", "pastel")
RANK: Final = 6
TARGETS: Final = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2")
PEAK_RATE: Final = 2e-3
SCENES: Final[dict[int, int]] = {256: 250, 512: 1000}
ODDS: Final[dict[int, float]] = {256: 0.2, 512: 0.8}  # of the picture sizes, by step
UNCONDITIONAL: Final = 0.1


def train_adapters(
    run: Path,
    out: Path,
    *,
    styles: tuple[Style, ...] = STYLES,
    minutes: float,
    seed: int,
    device: str,
    model: Path = WEIGHTS,
) -> None:
    """Train adapters, `minutes` each, and write them to `out`; what the run has finished is kept."""
    for style in styles:
        pipeline = StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32, local_files_only=True)
        pipeline.to(device)
        write_adapter(
            pipeline,
            train_adapter(run, pipeline, style, minutes=minutes, seed=seed, device=device),
            out,
            style,
        )


def train_adapter(
    run: Path, pipeline: StableDiffusionPipeline, style: Style, *, minutes: float, seed: int, device: str
) -> dict[str, torch.Tensor]:
    """Train one adapter on scenes drawn in its style under the same captions; return its weights."""
    torch.manual_seed(seed)
    parts = Parts(pipeline.tokenizer, pipeline.text_encoder, pipeline.unet, pipeline.vae)
    for module in (parts.text_encoder, parts.unet, parts.vae):
        module.requires_grad_(requires_grad=False)
    half = load_half_vae(run).to(device, memory_format=torch.channels_last)
    for size, count in SCENES.items():
        write_shards(half, run / "scenes", size=size, count=count, seed=seed, device=device, style=style)
    pools = {size: LatentPool(run / "scenes", size=size, style=style) for size in SCENES}
    parts.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS)))
    parts.unet.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(trainable([parts.unet]), lr=PEAK_RATE, weight_decay=0.0, fused=True)
    folder, progress = run / style, Progress()
    if folder.exists():
        progress = load_progress(folder)
        set_peft_model_state_dict(parts.unet, load_file(folder / "weights.safetensors"))
        load_optimizer(folder, optimizer)
    rng = random.Random(f"{seed} {style} {progress.step}")
    torch.manual_seed(seed + progress.step)
    scheduler = build_scheduler()
    clock = Clock(progress, minutes=minutes)
    bar = tqdm(initial=progress.step, desc=style, unit="step", mininterval=5)
    while clock.share < 1:
        set_learning_rate(optimizer, cosine_rate(PEAK_RATE, step=progress.step, share=clock.share, warmup=20))
        size = rng.choices([*ODDS], weights=[*ODDS.values()])[0]
        latents, scenes = pools[size].sample(rng, BATCH[size] // 2)
        latents = latents.to(device, memory_format=torch.channels_last)
        captions = ["" if rng.random() < UNCONDITIONAL else sample_caption(scene, rng) for scene in scenes]
        loss = velocity_loss(parts, scheduler, latents, captions, shift=TIME_SHIFT[size])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable([parts.unet]), 1.0)
        optimizer.step()
        progress.step += 1
        bar.update()
        if progress.step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}", share=f"{clock.share:.2f}")
        if progress.step % 100 == 0 or clock.share >= 1:
            progress.seconds = clock.seconds
            weights = get_peft_model_state_dict(parts.unet)
            save_checkpoint(folder, weights=weights, ema={}, optimizer=optimizer, progress=progress)
    bar.close()
    weights = get_peft_model_state_dict(parts.unet)
    return dict(weights)


def write_adapter(
    pipeline: StableDiffusionPipeline, weights: dict[str, torch.Tensor], out: Path, style: Style
) -> None:
    """Write an adapter as `<style>.safetensors` (fp16) under diffusers' own keys, in one step."""
    out.mkdir(parents=True, exist_ok=True)
    fresh = out / f".{style}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    half = {name: tensor.detach().half().contiguous() for name, tensor in weights.items()}
    name = f"{style}.safetensors"
    pipeline.save_lora_weights(fresh, unet_lora_layers=half, weight_name=name, safe_serialization=True)
    (fresh / name).chmod(0o644)  # safetensors writes files that only their owner can read
    (fresh / name).replace(out / name)
    shutil.rmtree(fresh)
