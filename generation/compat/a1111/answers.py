"""A1111's answers: pictures with their `info`, progress, options, and what there is to choose from."""

import base64
import io
import json
from typing import Any, Final

from django.contrib.auth.models import User
from django.utils import timezone
from PIL import Image
from PIL.ExifTags import IFD, Base

from generation.choices import OutputFormat
from generation.compat.a1111.samplers import SAMPLERS, SCHEDULE_TYPES, sampler_label
from generation.feed.stream import preview_latest
from generation.models import A1111Options, Generation
from generation.pictures.files import image_read
from loras.choices import LoraState
from loras.selectors import loras_visible
from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_default, checkpoints_enabled

_UNICODE_COMMENT: Final = b"UNICODE\0"
_NO_UPSCALER: Final = {
    "name": "None",
    "model_name": None,
    "model_path": None,
    "model_url": None,
    "scale": 1,
}
_FORMAT_NAMES: Final = {OutputFormat.PNG: "png", OutputFormat.JPEG: "jpg", OutputFormat.WEBP: "webp"}
TIMESTAMP: Final = "%Y%m%d%H%M%S"

UPSCALERS: Final = [_NO_UPSCALER]
LATENT_UPSCALE_MODES: Final[list[Any]] = []
VAES: Final[list[Any]] = []
SCRIPTS: Final[dict[str, Any]] = {"txt2img": [], "img2img": []}


def samplers() -> list[dict[str, Any]]:
    """Every sampler; which of them fit depends on the model."""
    return [
        {"name": name, "aliases": [sampler] if sampler else [], "options": {}}
        for name, sampler in SAMPLERS.items()
    ]


def schedule_types() -> list[dict[str, Any]]:
    """Every schedule type."""
    return [
        {"name": name, "label": label, "aliases": None, "default_rho": -1, "need_inner_model": False}
        for name, (label, _) in SCHEDULE_TYPES.items()
    ]


def models() -> list[dict[str, Any]]:
    """Every checkpoint that requests may name."""
    return [
        {
            "title": checkpoint.id,
            "model_name": checkpoint.id,
            "hash": checkpoint.revision[:10] or None,
            "sha256": None,
            "filename": checkpoint.repository,
            "config": None,
        }
        for checkpoint in checkpoints_enabled()
    ]


def loras(user: User) -> list[dict[str, Any]]:
    """The adapters that this user's prompts may name."""
    rows = loras_visible(user).filter(enabled=True).exclude(state=LoraState.BROKEN)
    return [
        {
            "name": lora.name,
            "alias": lora.name,
            "path": lora.repository or lora.name,
            "metadata": {"family": lora.family, "rank": lora.rank, "trigger_words": lora.trigger_words},
        }
        for lora in rows
    ]


def options_body(options: A1111Options) -> dict[str, Any]:
    """The options that there are."""
    checkpoint = options.checkpoint or checkpoint_default()
    return {
        "sd_model_checkpoint": checkpoint.id,
        "CLIP_stop_at_last_layers": options.clip_skip + 1,
        "samples_format": _FORMAT_NAMES[OutputFormat(options.output_format)],
        "sd_vae": "Automatic",
        "sd_checkpoint_hash": checkpoint.revision,
    }


def progress(active: list[Generation], *, with_picture: bool) -> dict[str, Any]:
    """How far the first of a user's jobs is; idle is progress 0 and job_count 0."""
    if not active:
        return _progress(None, 0, None)
    first = active[0]
    return _progress(first, len(active), preview_latest(first.id) if with_picture else None)


def _progress(job: Generation | None, job_count: int, picture: str | None) -> dict[str, Any]:
    step, total = (job.step, job.total_steps) if job else (0, 0)
    elapsed = (timezone.now() - job.started_at).total_seconds() if job and job.started_at else 0.0
    return {
        "progress": round(step / total, 4) if step else 0,
        "eta_relative": round(elapsed / step * (total - step), 2) if step else 0,
        "state": {
            "skipped": False,
            "interrupted": bool(job and job.cancel_requested_at),
            "stopping_generation": bool(job and job.cancel_requested_at),
            "job": str(job.id) if job else "",
            "job_count": job_count,
            "job_timestamp": job.created_at.strftime(TIMESTAMP) if job else "0",
            "job_no": 0,
            "sampling_step": step,
            "sampling_steps": total,
        },
        "current_image": picture,
        "textinfo": None,
    }


def pictures_body(generation: Generation, *, with_pictures: bool) -> dict[str, Any]:
    """A finished job: pictures, the request's parameters, and `info` as a JSON string."""
    files = [image_read(image) for image in generation.images.all()]
    return {
        "images": [base64.b64encode(file).decode("ascii") for file in files] if with_pictures else [],
        "parameters": _parameters(generation),
        "info": json.dumps(_info(generation, [_infotext(file) for file in files])),
    }


def _parameters(generation: Generation) -> dict[str, Any]:
    return {
        "prompt": generation.prompt,
        "negative_prompt": generation.negative_prompt,
        "seed": generation.seed,
        "steps": generation.num_inference_steps,
        "cfg_scale": generation.guidance_scale,
        "width": generation.width,
        "height": generation.height,
        "sampler_name": sampler_label(generation.scheduler),
        "batch_size": generation.num_images,
        "n_iter": 1,
        "denoising_strength": generation.strength,
    }


def _info(generation: Generation, infotexts: list[str]) -> dict[str, Any]:
    count = generation.num_images
    checkpoint: Checkpoint = generation.checkpoint
    return _parameters(generation) | {
        "all_prompts": [generation.prompt] * count,
        "all_negative_prompts": [generation.negative_prompt] * count,
        "all_seeds": [image.seed for image in generation.images.all()],
        "subseed_strength": 0,
        "sd_model_name": checkpoint.id,
        "sd_model_hash": checkpoint.revision[:10],
        "clip_skip": (generation.clip_skip or 0) + 1,
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": infotexts,
        "styles": [],
        "job_timestamp": generation.created_at.strftime(TIMESTAMP),
        "job_id": str(generation.id),
        "warnings": generation.warnings,
    }


def _infotext(file: bytes) -> str:
    """The parameters that the file itself carries."""
    with Image.open(io.BytesIO(file)) as image:
        if image.format == "PNG":
            return str(getattr(image, "text", {}).get("parameters", ""))
        comment = image.getexif().get_ifd(IFD.Exif).get(Base.UserComment, b"")
    return bytes(comment).removeprefix(_UNICODE_COMMENT).decode("utf-16-be", "replace")
