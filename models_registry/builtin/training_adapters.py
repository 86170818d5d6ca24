"""Last training stage: two LoRA adapters on the exported weights, "outline" and "pastel"."""

import shutil
from functools import partial
from pathlib import Path
from typing import Final

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from models_registry.builtin import WEIGHTS
from models_registry.builtin.architecture import Parts, build_scheduler
from models_registry.builtin.captions import sample_caption
from models_registry.builtin.checkpoints import trainable
from models_registry.builtin.latents import LatentPool, write_shards
from models_registry.builtin.precision import prepare_unet
from models_registry.builtin.scenes import Style
from models_registry.builtin.training_base import TIME_SHIFT, velocity_loss
from models_registry.builtin.training_loop import Stage, train_stage

STYLES: Final[tuple[Style, ...]] = ("outline", "pastel")
RANK: Final = 6
TARGETS: Final = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2")
PEAK_RATE: Final = 2e-3
SCENES: Final[dict[int, int]] = {256: 250, 512: 1000}
ODDS: Final[dict[int, float]] = {256: 0.2, 512: 0.8}  # of the picture sizes, by step
BATCH: Final[dict[int, int]] = {256: 16, 512: 8}
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
    start: Path | None = None,
    precision: str = "fp32",
) -> None:
    """Train adapters, `minutes` each, and write them to `out`; what the run has finished is kept.

    `start` is a folder of adapters to go on from, made for earlier weights of the same model.
    """
    for style in styles:
        pipeline = StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32, local_files_only=True)
        pipeline.to(device)
        weights = train_adapter(
            run,
            pipeline,
            style,
            minutes=minutes,
            seed=seed,
            device=device,
            start=start / f"{style}.safetensors" if start else None,
            precision=precision,
        )
        write_adapter(pipeline, weights, out, style)


def train_adapter(
    run: Path,
    pipeline: StableDiffusionPipeline,
    style: Style,
    *,
    minutes: float,
    seed: int,
    device: str,
    start: Path | None = None,
    precision: str = "fp32",
) -> dict[str, torch.Tensor]:
    """Train one adapter on scenes drawn in its style under the same captions; return its weights."""
    torch.manual_seed(seed)
    parts = Parts(pipeline.tokenizer, pipeline.text_encoder, pipeline.unet, pipeline.vae)
    for module in (parts.text_encoder, parts.unet, parts.vae):
        module.requires_grad_(requires_grad=False)
    parts.vae.to(memory_format=torch.channels_last)
    for size, count in SCENES.items():
        write_shards(parts.vae, run / "scenes", size=size, count=count, seed=seed, device=device, style=style)
    pools = {size: LatentPool(run / "scenes", size=size, style=style) for size in SCENES}
    parts.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS)))
    if start:
        set_peft_model_state_dict(parts.unet, unet_weights(load_file(start)))
    prepare_unet(parts.unet, device=device, precision=precision)
    stage = Stage(
        style,
        run / style,
        {"unet": parts.unet},
        torch.optim.AdamW(trainable([parts.unet]), lr=PEAK_RATE, weight_decay=0.0, fused=True),
        peak_rate=PEAK_RATE,
        warmup=20,
        checkpoint_every=100,
        state=partial(get_peft_model_state_dict, parts.unet),
        load=partial(set_peft_model_state_dict, parts.unet),
    )
    rng = stage.generator(seed)
    scheduler = build_scheduler()

    def learn(_: int, __: float) -> dict[str, float]:
        size = rng.choices([*ODDS], weights=[*ODDS.values()])[0]
        latents, scenes = pools[size].sample(rng, BATCH[size])
        latents = latents.to(device, memory_format=torch.channels_last)
        captions = ["" if rng.random() < UNCONDITIONAL else sample_caption(scene, rng) for scene in scenes]
        loss = velocity_loss(parts, scheduler, latents, captions, shift=TIME_SHIFT[size], precision=precision)
        loss.backward()
        return {"loss": loss.item()}

    train_stage(stage, learn, minutes=minutes)
    return stage.weights()


def unet_weights(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return an adapter file's weights under the names that PEFT gives them inside a denoiser."""
    return {name.removeprefix("unet."): tensor.float() for name, tensor in weights.items()}


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
