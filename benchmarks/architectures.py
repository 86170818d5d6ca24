"""Checkpoints of well-known architectures in true size, with random weights: what the engine's benchmark draws with.

Only denoiser and autoencoder have their size, since denoising and decoding are measured. Text encoders have the width
that the denoiser asks for and next to no layers. No weights lie in files: they are made on the device, and handed to
the engine's loader as if they had been read.
"""

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import torch
from accelerate import init_empty_weights
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from generation.engine import loader
from generation.engine.loader import HostModule, channels_last
from tests.support.tiny_checkpoints import NOISE
from tests.support.tiny_parts import t5_encoder, t5_tokenizer, text_encoder, tokenizer

Weights = dict[str, torch.Tensor]
Parts = dict[str, Any]

_CONVOLUTION: Final = 4  # dimensions of its weights
_DOWN, _CROSS_DOWN = "DownBlock2D", "CrossAttnDownBlock2D"
_UP, _CROSS_UP = "UpBlock2D", "CrossAttnUpBlock2D"
_TINY_UNET: Final = {
    "sample_size": 16,
    "down_block_types": (_DOWN, _CROSS_DOWN),
    "up_block_types": (_CROSS_UP, _UP),
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}
_SDXL_TEXTS: Final = {"use_linear_projection": True, "addition_embed_type": "text_time"}
_FLUX_VAE: Final = {
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


@dataclass(frozen=True)
class Architecture:
    """One well-known model: the classes of its parts, and their sizes, true and tiny.

    `widths` are those of its text encoders. Pictures are squares of `side` pixels, drawn in `steps`; `row_steps` is how
    many a picture has of which sixteen are drawn. `stays` says that weights are made once, where they are used, and
    shared by all who draw with them.
    """

    title: str
    pipeline: type[Any]
    scheduler: Callable[[], Any]
    encoders: Callable[[tuple[int, int]], Parts]
    denoiser: tuple[str, type[Any]]
    config: Mapping[str, Any]
    vae: Mapping[str, Any]
    widths: tuple[int, int]
    tiny_config: Mapping[str, Any]
    tiny_widths: tuple[int, int]
    side: int
    steps: int
    guidance: float
    row_steps: int
    stays: bool = False


def _sd_texts(widths: tuple[int, int]) -> Parts:
    reader = tokenizer()
    unused = dict.fromkeys(("safety_checker", "feature_extractor"))
    encoder = text_encoder(reader, width=widths[0])
    return unused | {"text_encoder": encoder, "tokenizer": reader, "requires_safety_checker": False}


def _sdxl_texts(widths: tuple[int, int]) -> Parts:
    reader = tokenizer()
    return {
        "text_encoder": text_encoder(reader, width=widths[0]),
        "text_encoder_2": text_encoder(reader, width=widths[1], projected=True),
        "tokenizer": reader,
        "tokenizer_2": reader,
    }


def _flux_texts(widths: tuple[int, int]) -> Parts:
    first, second = tokenizer(), t5_tokenizer()
    return {
        "text_encoder": text_encoder(first, width=widths[0]),
        "text_encoder_2": t5_encoder(second, width=widths[1]),
        "tokenizer": first,
        "tokenizer_2": second,
    }


ARCHITECTURES: Final = {
    "sd15": Architecture(
        "SD 1.5",
        StableDiffusionPipeline,
        lambda: PNDMScheduler(**NOISE, skip_prk_steps=True, steps_offset=1),
        _sd_texts,
        ("unet", UNet2DConditionModel),
        # What else it is the class takes where nothing is said.
        {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
        {"sample_size": 512},
        (768, 0),
        _TINY_UNET | {"cross_attention_dim": 32},
        (32, 0),
        side=512,
        steps=50,
        guidance=7.5,
        row_steps=20,
    ),
    "sdxl": Architecture(
        "SDXL",
        StableDiffusionXLPipeline,
        lambda: EulerDiscreteScheduler(**NOISE, steps_offset=1, timestep_spacing="leading"),
        _sdxl_texts,
        ("unet", UNet2DConditionModel),
        {
            "sample_size": 128,
            "down_block_types": (_DOWN, _CROSS_DOWN, _CROSS_DOWN),
            "up_block_types": (_CROSS_UP, _CROSS_UP, _UP),
            "block_out_channels": (320, 640, 1280),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
            **_SDXL_TEXTS,
        },
        {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
        (768, 1280),
        _TINY_UNET
        | {
            "cross_attention_dim": 64,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 32
            + 6 * 8,  # the pooled text, and six numbers about sizes
            **_SDXL_TEXTS,
        },
        (32, 32),
        side=1024,
        steps=30,
        guidance=5.0,
        row_steps=10,
    ),
    "flux": Architecture(
        "FLUX.1",
        FluxPipeline,
        lambda: FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, shift=3.0
        ),
        _flux_texts,
        ("transformer", FluxTransformer2DModel),
        {"guidance_embeds": True},
        {"sample_size": 1024, "latent_channels": 16, **_FLUX_VAE},
        (768, 4096),
        {
            "in_channels": 16,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 64,
            "pooled_projection_dim": 32,
            "guidance_embeds": True,
            "axes_dims_rope": (4, 4, 8),
        },
        (32, 64),
        side=1024,
        steps=28,
        guidance=3.5,
        row_steps=8,
        stays=True,
    ),
}


def pipeline_make(architecture: Architecture, folder: Path, *, tiny: bool) -> DiffusionPipeline:
    """The stock pipeline, whose denoiser and autoencoder have no weights yet; the folder gets all but these."""
    name, kind = architecture.denoiser
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = architecture.encoders(architecture.tiny_widths if tiny else architecture.widths)
    with init_empty_weights(include_buffers=False):
        parts[name] = kind(**(architecture.tiny_config if tiny else architecture.config))
        parts["vae"] = _vae(architecture.vae, tiny=tiny)
    pipeline: DiffusionPipeline = architecture.pipeline(**parts, scheduler=architecture.scheduler())
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_config(folder)
    for part, module in pipeline.components.items():
        if part in (name, "vae"):
            module.save_config(folder / part)
        elif module is not None:
            module.save_pretrained(folder / part)
    return pipeline


def _vae(values: Mapping[str, Any], *, tiny: bool) -> AutoencoderKL:
    blocks = 4  # one latent cell covers 8x8 pixels
    channels = (8,) * blocks if tiny else (128, 256, 512, 512)
    own = {"norm_num_groups": 4, "layers_per_block": 1} if tiny else {"layers_per_block": 2}
    if tiny:
        values = {**values, "sample_size": 128, "latent_channels": 4}
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=channels,
        **own,
        **values,
    )


def weights_make(module: Any, *, dtype: torch.dtype, device: torch.device) -> Weights:
    """Random weights for a module that has none; the same ones each time on one device.

    Layers neither grow nor shrink what goes through them, so that half precision holds it, and norms change nothing.
    """
    made: Weights = {}
    for name, empty in module.state_dict().items():
        tensor = torch.empty(empty.shape, dtype=dtype, device=device)
        if tensor.ndim > 1:
            generator = torch.Generator(device).manual_seed(zlib.crc32(name.encode()))
            tensor.normal_(std=1 / math.sqrt(tensor[0].numel()), generator=generator)
        else:
            tensor.fill_(0.0 if name.endswith("bias") else 1.0)
        made[name] = tensor
    return made


@contextmanager
def weights_given(weights: Mapping[str, Weights], *, stays: bool) -> Iterator[None]:
    """Has the engine's loader take these as the weights of the parts of these names, as if it had read them.

    It has them in host memory, pinned beside a card, unless they are to stay where they are.
    """
    real = loader._module_read  # noqa: SLF001 - the only seam behind which weights are not files

    def read(
        kind: Any, folder: Path, dtype: torch.dtype, *arguments: Any, device: torch.device, **options: Any
    ) -> HostModule:
        if folder.name not in weights:
            return real(kind, folder, dtype, *arguments, device=device, **options)
        layout = torch.channels_last if channels_last(dtype) else torch.contiguous_format
        tensors = {}
        for name, given in weights[folder.name].items():
            tensor = given.to(dtype)
            if tensor.ndim == _CONVOLUTION:
                tensor = tensor.contiguous(memory_format=layout)
            if device.type == "cuda" and not stays:
                tensor = torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor)
            tensors[name] = tensor
        return HostModule(kind, kind.load_config(folder), tensors)

    with patch.object(loader, "_module_read", read):
        yield


def weights_fill(pipeline: Any, weights: Mapping[str, Weights], *, dtype: torch.dtype) -> None:
    """Gives the stock pipeline its weights, and brings the rest of it to where these are."""
    for name, tensors in weights.items():
        getattr(pipeline, name).load_state_dict(tensors, assign=True)
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.requires_grad_(requires_grad=False).eval()
    device = next(iter(next(iter(weights.values())).values())).device
    pipeline.to(device, dtype)
