"""A small repository in diffusers' layout, written without torch: enough for whoever only moves files."""

import json
from pathlib import Path
from typing import Any

COMPONENTS: dict[str, list[str]] = {
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
}


def safetensors_bytes(size: int, *, value: int = 7, header: dict[str, Any] | None = None) -> bytes:
    """A sound safetensors file of one tensor with `size` bytes, or one with another header."""
    described = {"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    text = json.dumps(described if header is None else header).encode()
    return len(text).to_bytes(8, "little") + text + bytes([value]) * size


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Writes files, folders included."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def write_repository(folder: Path, *, size: int = 300_000, **changes: Any) -> Path:
    """A repository with what is needed, and beside it what must never be fetched; `changes` go into its index."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        **COMPONENTS,
        **changes,
    }
    write_files(
        folder,
        {
            "model_index.json": json.dumps(index).encode(),
            "README.md": b"# A model\n",
            "pipeline.py": b"raise SystemExit\n",
            "whole-model.safetensors": safetensors_bytes(size),
            "whole-model.ckpt": b"\x80\x02pickle",
            "scheduler/scheduler_config.json": b"{}",
            "text_encoder/config.json": b"{}",
            "text_encoder/model.safetensors": safetensors_bytes(size // 3),
            "text_encoder/pytorch_model.bin": b"\x80\x02pickle",
            "text_encoder/flax_model.msgpack": b"flax",
            "tokenizer/vocab.json": b'{"a": 0}',
            "tokenizer/merges.txt": b"#version: 0.2\n",
            "tokenizer/special_tokens_map.json": b"{}",
            "unet/config.json": b"{}",
            "unet/diffusion_pytorch_model.safetensors": safetensors_bytes(size),
            "unet/diffusion_pytorch_model.non_ema.safetensors": safetensors_bytes(size),
            "unet/diffusion_pytorch_model.bin": b"\x80\x02pickle",
            "unet/model.onnx": b"onnx",
        },
    )
    return folder


# What a download of it brings.
NEEDED = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
}
UNET = "unet/diffusion_pytorch_model.safetensors"
