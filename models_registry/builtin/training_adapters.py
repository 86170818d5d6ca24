"""Last training stage: two LoRA adapters on the trained denoiser, "outline" and "pastel"."""

import copy
import shutil
from pathlib import Path
from typing import Final

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from models_registry.builtin.architecture import Parts
from models_registry.builtin.sampling import Sample
from models_registry.builtin.scenes import Style
from models_registry.builtin.training_denoiser import Size, encode_pools, train_denoiser

STYLES: Final[tuple[Style, ...]] = ("outline", "pastel")
RANK: Final = 6
TARGETS: Final = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2")
PEAK_RATE: Final = 2e-3
AVERAGE: Final = 0.99
SIZES: Final = (Size(512, 512, 0.8, 0.8, 64), Size(256, 256, 0.2, 0.2, 64))


def train_adapter(
    run: Path,
    parts: Parts,
    style: Style,
    sample: Sample,
    out: Path,
    *,
    minutes: float,
    seed: int,
    precision: str,
    largest: int | None = None,
) -> None:
    """Train one adapter on a sample in its style, and write it to `out`; `parts` stay as they are."""
    pools = encode_pools(parts.vae, sample, SIZES, precision=precision)
    unet = copy.deepcopy(parts.unet).requires_grad_(requires_grad=False)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS)))
    train_denoiser(
        run,
        style,
        unet,
        parts.text_encoder,
        pools,
        minutes=minutes,
        seed=seed,
        precision=precision,
        peak_rate=PEAK_RATE,
        average=AVERAGE,
        largest=largest,
    )
    write_adapter(get_peft_model_state_dict(unet), out, style)


def write_adapter(weights: dict[str, torch.Tensor], out: Path, style: Style) -> None:
    """Write an adapter as `<style>.safetensors` (fp16) under diffusers' own keys, in one step."""
    out.mkdir(parents=True, exist_ok=True)
    fresh = out / f".{style}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    half = {name: tensor.detach().half().contiguous().cpu() for name, tensor in weights.items()}
    name = f"{style}.safetensors"
    StableDiffusionPipeline.save_lora_weights(
        fresh, unet_lora_layers=half, weight_name=name, safe_serialization=True
    )
    (fresh / name).chmod(0o644)  # safetensors writes files that only their owner can read
    (fresh / name).replace(out / name)
    shutil.rmtree(fresh)
