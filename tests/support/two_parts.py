"""A checkpoint of two large parts of about the same size, for measurements of memory."""

from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from models_registry import builtin

MIB = 1 << 20
# From so many MiB on, layers are as wide as those of real models.
LARGE_MB = 200


def checkpoint_make(folder: Path, *, part_mb: int) -> None:
    """A checkpoint whose text encoder takes about so many MiB, and its U-Net as many where they are large."""
    width = 1024 if part_mb >= LARGE_MB else 128
    base = StableDiffusionPipeline.from_pretrained(builtin.WEIGHTS, safety_checker=None)
    reader = base.tokenizer
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(reader),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=max(1, part_mb * MIB // (12 * width * width * 4)),
            num_attention_heads=16,
            max_position_embeddings=reader.model_max_length,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        block_out_channels=(width,),
        layers_per_block=1,
        cross_attention_dim=width,
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
