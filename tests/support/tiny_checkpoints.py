"""Tiny checkpoints with random weights, in the layout that diffusers writes: one of each family's real pipeline class.

They load and run like the real ones, at 64 to 128 pixels and milliseconds a step, and draw noise.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from models_registry.builtin.vocabulary import BOS, COMMON_WORDS, EOS, build_vocabulary

TINY_FAMILIES = ("sd1", "sd2", "sdxl", "sd3")
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def make_tiny_checkpoint(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Writes a checkpoint of the family (one of `TINY_FAMILIES`) to the folder; weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = _BUILDERS[family]()
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def _tokenizer() -> CLIPTokenizer:
    vocabulary, merges = build_vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def _text_encoder(
    tokenizer: CLIPTokenizer, *, width: int = 32, layers: int = 3, projected: bool = False
) -> CLIPTextModel | CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.convert_tokens_to_ids(BOS),
        eos_token_id=tokenizer.convert_tokens_to_ids(EOS),
        pad_token_id=tokenizer.convert_tokens_to_ids(EOS),
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def _t5_tokenizer() -> T5Tokenizer:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,"
    pieces = ["\u2581", *letters, *(f"\u2581{word}" for word in dict.fromkeys(COMMON_WORDS))]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5Tokenizer(vocab=special + [(piece, -2.0) for piece in pieces], extra_ids=0, model_max_length=256)


def _t5_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=64,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            dense_act_fn="gelu",
        )
    )


def _vae(*, channels: int = 4, **values: Any) -> AutoencoderKL:
    blocks = 4  # one latent cell covers 8x8 pixels, as in the real ones
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(8,) * blocks,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=128,
        **values,
    )


def _unet(*, cross_attention_dim: int, **values: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=cross_attention_dim,
        attention_head_dim=4,
        norm_num_groups=4,
        **values,
    )


def _stable_diffusion(scheduler: Any, *, linear: bool, layers: int) -> StableDiffusionPipeline:
    tokenizer = _tokenizer()
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_text_encoder(tokenizer, layers=layers),
        tokenizer=tokenizer,
        unet=_unet(cross_attention_dim=32, use_linear_projection=linear),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sd1() -> StableDiffusionPipeline:
    scheduler = PNDMScheduler(**NOISE, skip_prk_steps=True, steps_offset=1)
    return _stable_diffusion(scheduler, linear=False, layers=12)


def _sd2() -> StableDiffusionPipeline:
    scheduler = DDIMScheduler(
        **NOISE, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction"
    )
    return _stable_diffusion(scheduler, linear=True, layers=23)


def _sdxl() -> StableDiffusionXLPipeline:
    first, second = _tokenizer(), _tokenizer()
    return StableDiffusionXLPipeline(
        vae=_vae(scaling_factor=0.13025, force_upcast=False),
        text_encoder=_text_encoder(first, layers=12),
        text_encoder_2=_text_encoder(second, layers=12, projected=True),
        tokenizer=first,
        tokenizer_2=second,
        unet=_unet(
            cross_attention_dim=64,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=32 + 6 * 8,  # the pooled text, and six numbers about sizes
        ),
        scheduler=EulerDiscreteScheduler(**NOISE, steps_offset=1, timestep_spacing="leading"),
    )


def _sd3() -> StableDiffusion3Pipeline:
    first, second, third = _tokenizer(), _tokenizer(), _t5_tokenizer()
    return StableDiffusion3Pipeline(
        vae=_vae(
            channels=16,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=_text_encoder(first, projected=True),
        text_encoder_2=_text_encoder(second, projected=True),
        text_encoder_3=_t5_encoder(third),
        tokenizer=first,
        tokenizer_2=second,
        tokenizer_3=third,
        transformer=SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=64,
            caption_projection_dim=32,
            pooled_projection_dim=64,
            pos_embed_max_size=64,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


_BUILDERS: dict[str, Callable[[], DiffusionPipeline]] = {
    "sd1": _sd1,
    "sd2": _sd2,
    "sdxl": _sdxl,
    "sd3": _sd3,
}
