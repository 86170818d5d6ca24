"""From a folder of safetensors to a pipeline on the device."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from generation.engine.errors import EngineModelUnavailable
from generation.engine.specs import ModelRef

# A worker's standard error is its log: bars of the libraries do not belong there.
diffusers_logging.disable_progress_bar()
transformers_logging.disable_progress_bar()


def device_of_choice() -> torch.device:
    """The first CUDA device, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def dtype_for(name: str, device: torch.device) -> torch.dtype:
    """The number format: `auto` is half precision on CUDA; a CPU always runs in single, since half is slow there."""
    if device.type == "cpu":
        return torch.float32
    formats = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
    return formats.get(name, torch.float16)


def pipeline_load(model: ModelRef, device: torch.device) -> Any:
    """A text-to-image pipeline, ready on the device.

    Safetensors only, no remote code, no network. Raises EngineModelUnavailable.
    """
    if not (model.folder / "model_index.json").is_file():
        raise EngineModelUnavailable(f"The files of {model.id} are not on this worker.")
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            model.folder,
            dtype=dtype_for(model.dtype, device),
            use_safetensors=True,
            local_files_only=True,
            safety_checker=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
        raise EngineModelUnavailable(
            f"The files of {model.id} are not a pipeline that can be loaded."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def weights_sha256(folder: Path) -> str:
    """One digest over every weights file of a checkpoint: what a receipt names beside the commit."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(str(path.relative_to(folder)).encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def class_name(folder: Path) -> str:
    """The pipeline class that the folder names."""
    index: dict[str, Any] = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    return str(index.get("_class_name", ""))
