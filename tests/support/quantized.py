"""Tiny checkpoints whose weights a real library has quantized, and the stock pipeline for them."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import torch
import transformers
from diffusers.quantizers.bitsandbytes import BnB4BitDiffusersQuantizer, BnB8BitDiffusersQuantizer

DTYPE = torch.bfloat16
# How: the library that it takes, and what is asked of it for the denoiser and for a text encoder.
FOUR_BITS: dict[str, Any] = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_compute_dtype": DTYPE,
}
TORCHAO: dict[str, tuple[str, dict[str, Any]]] = {
    "int8-torchao": ("Int8WeightOnlyConfig", {}),
    "int4-torchao": ("IntxWeightOnlyConfig", {"weight_dtype": torch.int4}),
    "float8-torchao": ("Float8WeightOnlyConfig", {}),
}
LIBRARY_OF = dict.fromkeys(TORCHAO, "torchao") | dict.fromkeys(("nf4", "int8"), "bitsandbytes")


@contextmanager
def without_gpu() -> Iterator[None]:
    """Has diffusers load what bitsandbytes quantized on a CPU, which it does not do by itself."""
    with ExitStack() as stack:
        for quantizer in (BnB4BitDiffusersQuantizer, BnB8BitDiffusersQuantizer):
            stack.enter_context(patch.object(quantizer, "validate_environment", lambda *_, **__: None))
            stack.enter_context(patch.object(quantizer, "update_device_map", lambda *_: {"": "cpu"}))
        yield


def _asked(how: str, library: Any, *, nested: bool) -> Any:
    """A library's (diffusers' or transformers') words for it."""
    if how in TORCHAO:
        name, options = TORCHAO[how]
        return library.TorchAoConfig(getattr(import_module("torchao.quantization"), name)(**options))
    if how == "nf4":
        return library.BitsAndBytesConfig(**FOUR_BITS, bnb_4bit_use_double_quant=nested)
    return library.BitsAndBytesConfig(load_in_8bit=True)


def quantized_make(source: Path, folder: Path, how: str) -> Path:
    """Writes a copy of a checkpoint of FLUX.1 whose denoiser and T5 are quantized."""
    parts = {
        "transformer": (diffusers.FluxTransformer2DModel, _asked(how, diffusers, nested=False)),
        "text_encoder_2": (transformers.T5EncoderModel, _asked(how, transformers, nested=True)),
    }
    pipeline = diffusers.FluxPipeline.from_pretrained(source, dtype=DTYPE, use_safetensors=True)
    pipeline.save_pretrained(folder, safe_serialization=True)
    with without_gpu():
        for name, (kind, asked) in parts.items():
            shutil.rmtree(folder / name)
            made = kind.from_pretrained(source / name, quantization_config=asked, dtype=DTYPE)
            made.save_pretrained(folder / name, safe_serialization=True)
    return folder


def stock_pixels(folder: Path, **request: Any) -> str:
    """What the stock pipeline's picture hashes to."""
    with without_gpu():
        pipeline = diffusers.FluxPipeline.from_pretrained(folder, dtype=DTYPE, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    return hashlib.sha256(pipeline(**request).images[0].tobytes()).hexdigest()
