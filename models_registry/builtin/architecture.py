"""The built-in model's parts: standard diffusers and transformers classes in small sizes, with random weights."""

import os

# Spinning threads slow every step by an order of magnitude beside a busy neighbour; read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from models_registry.builtin import NATIVE_SIZE, SIZE_MULTIPLE
from models_registry.builtin.vocabulary import BOS, EOS, MAX_TOKENS, build_vocabulary

LATENT_CHANNELS: Final = 4  # what StableDiffusionInpaintPipeline asks for without mask channels
TEXT_WIDTH: Final = 160
VAE_WIDTH: Final = 32
PLACES_OF_ORIGIN: Final = ("_name_or_path", "is_local", "local_files_only")


@dataclass
class Parts:
    """The modules of a pipeline that hold weights, and the tokenizer."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vae: AutoencoderTiny


def build_tokenizer() -> CLIPTokenizer:
    """Return the tokenizer: about 1,000 entries, prompts of at most `MAX_TOKENS` tokens."""
    vocabulary, merges = build_vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return a three-layer CLIP text model for this tokenizer."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=5,
            max_position_embeddings=MAX_TOKENS,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.convert_tokens_to_ids(BOS),
            eos_token_id=tokenizer.convert_tokens_to_ids(EOS),
            pad_token_id=tokenizer.convert_tokens_to_ids(EOS),
        )
    )


def build_unet() -> UNet2DConditionModel:
    """Return the denoiser: four levels, the finest one thin and without text."""
    return UNet2DConditionModel(
        sample_size=NATIVE_SIZE // SIZE_MULTIPLE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(32, 64, 96, 144),
        layers_per_block=1,
        down_block_types=(
            "DownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
        ),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=(1, 2, 3, 4),  # heads per level: diffusers keeps the old name of this argument
        # few groups: a norm over two or four channels wipes out what a flat picture consists of, constant colours
        norm_num_groups=4,
        # a summary of the text joins the timestep's embedding, so that every layer hears it, not only cross-attention
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=5,
        time_embedding_dim=256,
    )


def build_vae() -> AutoencoderTiny:
    """Return the autoencoder: five stages, so one latent cell of four channels covers 16x16 pixels.

    The decoder is deepest where a layer costs least and sees whole shapes: it concludes from many cells where an
    outline runs.
    """
    widths = (VAE_WIDTH,) * 5
    return AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        latent_channels=LATENT_CHANNELS,
        num_encoder_blocks=(0, 0, 1, 1, 2),
        num_decoder_blocks=(6, 4, 2, 1, 1),
    )


def build_parts(*, seed: int = 0) -> Parts:
    """Return all parts with random weights that depend on `seed` alone; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = build_tokenizer()
        return Parts(tokenizer, build_text_encoder(tokenizer), build_unet(), build_vae())


def build_scheduler() -> DDIMScheduler:
    """Return the noise schedule: velocity prediction with zero terminal signal (https://arxiv.org/abs/2305.08891).

    In flat scenes the colours would leak through the last timestep of the stock schedule, and the text be ignored.
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # without effect under trailing spacing, but pipelines warn about 0
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def build_pipeline(parts: Parts) -> StableDiffusionPipeline:
    """Return the stock text-to-image pipeline around `parts`."""
    return StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save_pipeline(parts: Parts, folder: Path) -> None:
    """Write the standard pipeline layout (safetensors) to `folder`, in fp16; `parts` are converted in place."""
    for module in (parts.text_encoder, parts.unet, parts.vae):
        module.half()
    build_pipeline(parts).save_pretrained(folder, safe_serialization=True)
    # transformers loads in the type that the configuration names, diffusers in fp32: without a type given to
    # `from_pretrained` the parts of a pipeline would come up in two types that cannot be multiplied
    _rewrite(folder / "text_encoder" / "config.json", {"dtype": "float32"})
    for part in ("unet/config.json", "vae/config.json", "tokenizer/tokenizer_config.json"):
        _rewrite(folder / part, {})
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes files that only their owner can read


def _rewrite(path: Path, changes: dict[str, Any]) -> None:
    """Change a configuration, and leave out where its part was loaded from: that is a path of this machine."""
    config = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {name: value for name, value in config.items() if name not in PLACES_OF_ORIGIN}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def export_pipeline(parts: Parts, folder: Path) -> None:
    """Replace the pipeline at `folder` in one step, so that no reader ever finds half of it; its other files stay."""
    fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    save_pipeline(parts, fresh)
    if folder.exists():
        for path in folder.iterdir():
            if not (fresh / path.name).exists():
                shutil.copy2(path, fresh / path.name)
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
