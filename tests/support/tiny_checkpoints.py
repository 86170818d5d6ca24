"""Tiny checkpoints with random weights, in the layout that diffusers writes: one of each family's real pipeline class.

They load and run like the real ones, at 64 to 128 pixels and milliseconds a step, and draw noise.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from tests.support import tiny_transformers
from tests.support.once import made_once, run_folder
from tests.support.tiny_parts import t5_encoder, t5_tokenizer, text_encoder, tokenizer, vae

TINY_FAMILIES = ("sd1", "sd2", "sdxl", "sd3")
# The others, by the name of what they are checkpoints of.
TINY_MODELS = ("sdxl-inpaint", *tiny_transformers.BUILDERS)
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def make_tiny_checkpoint(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Writes a checkpoint of the family (of `TINY_FAMILIES` or `TINY_MODELS`) to the folder.

    Its weights depend on the seed alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = _BUILDERS[family]()
    pipeline.save_pretrained(folder, safe_serialization=True)
    index = json.loads((folder / "model_index.json").read_text())
    if "processor" in index:  # as it is called in the repositories
        index["processor"] = ["transformers", "Qwen2VLProcessor"]
        (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def tiny_checkpoint_copy(family: str, folder: Path) -> Path:
    """Puts a tiny checkpoint into a folder of one's own; the first of a run makes it."""
    made = run_folder(f"tiny/{family}")
    made_once(made, lambda: make_tiny_checkpoint(family, made))
    shutil.copytree(made, folder)
    return folder


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
    reader = tokenizer()
    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=text_encoder(reader, layers=layers),
        tokenizer=reader,
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


def _sdxl_unet(**values: Any) -> UNet2DConditionModel:
    return _unet(
        cross_attention_dim=64,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,  # the pooled text, and six numbers about sizes
        **values,
    )


def _sdxl() -> StableDiffusionXLPipeline:
    first, second = tokenizer(), tokenizer()
    return StableDiffusionXLPipeline(
        vae=vae(scaling_factor=0.13025, force_upcast=False),
        text_encoder=text_encoder(first, layers=12),
        text_encoder_2=text_encoder(second, layers=12, projected=True),
        tokenizer=first,
        tokenizer_2=second,
        unet=_sdxl_unet(),
        scheduler=EulerDiscreteScheduler(**NOISE, steps_offset=1, timestep_spacing="leading"),
    )


def _sdxl_inpaint() -> StableDiffusionXLInpaintPipeline:
    parts = dict(_sdxl().components)
    parts |= {"unet": _sdxl_unet(in_channels=9), "image_encoder": None, "feature_extractor": None}
    return StableDiffusionXLInpaintPipeline(**parts)


def _sd3() -> StableDiffusion3Pipeline:
    first, second, third = tokenizer(), tokenizer(), t5_tokenizer()
    return StableDiffusion3Pipeline(
        vae=vae(
            channels=16,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=text_encoder(first, projected=True),
        text_encoder_2=text_encoder(second, projected=True),
        text_encoder_3=t5_encoder(third),
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
    "sdxl-inpaint": _sdxl_inpaint,
    **tiny_transformers.BUILDERS,
}
