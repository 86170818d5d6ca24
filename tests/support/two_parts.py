"""A checkpoint of two large parts of about the same size, for measurements of memory."""

from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from models_registry import builtin

WIDTH = 1024
MIB = 1 << 20


def checkpoint_make(folder: Path, *, part_mb: int) -> None:
    """A checkpoint whose text encoder and U-Net take about so many MiB each."""
    base = StableDiffusionPipeline.from_pretrained(builtin.WEIGHTS, safety_checker=None)
    reader = base.tokenizer
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(reader),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=max(1, part_mb * MIB // (12 * WIDTH * WIDTH * 4)),
            num_attention_heads=16,
            max_position_embeddings=reader.model_max_length,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        block_out_channels=(WIDTH,),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=64,
    )
    StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(32,), latent_channels=4, sample_size=64),
        text_encoder=encoder,
        tokenizer=reader,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)
