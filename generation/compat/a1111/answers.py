"""A1111's answers: pictures with their `info`, and progress."""

import base64
import binascii
import io
import json
from typing import Any, Final

from django.utils import timezone
from PIL import Image

from generation.choices import Status
from generation.compat.dialect import warning
from generation.feed.stream import preview_latest
from generation.models import MAX_SEED, Generation
from generation.pictures.files import image_read
from generation.pictures.infotext import infotext_read
from generation.requests.a1111_words import sampler_labels
from imagegen_project import __version__
from models_registry.selectors import checkpoint_hash

TIMESTAMP: Final = "%Y%m%d%H%M%S"
VERSION: Final = f"imagegen {__version__}"


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
    """A job that succeeded or was interrupted: pictures, the request's parameters, and `info` as a JSON string."""
    if generation.status == Status.CANCELED:
        files, warnings = _interrupted(generation)
    else:
        files, warnings = [image_read(image) for image in generation.images.all()], []
    texts = [infotext_read(file).parameters for file in files]
    return {
        "images": [base64.b64encode(file).decode("ascii") for file in files] if with_pictures else [],
        "parameters": _parameters(generation),
        "info": json.dumps(_info(generation, texts, [*generation.warnings, *warnings])),
    }


def _interrupted(generation: Generation) -> tuple[list[bytes], list[dict[str, Any]]]:
    """What was drawn of an interrupted job: its latest preview at the full size, where it had one."""
    said = [warning("images", "It was interrupted; the picture is what there was of it.")]
    try:
        preview = Image.open(
            io.BytesIO(base64.b64decode(preview_latest(generation.id) or "")), formats=["JPEG"]
        )
        picture = preview.resize((generation.width, generation.height), Image.Resampling.BICUBIC)
    except (OSError, ValueError, binascii.Error):
        return [], [warning("images", "It was interrupted before there was anything to see.")]
    buffer = io.BytesIO()
    picture.save(buffer, format=generation.output_format.upper())
    return [buffer.getvalue()], said


def _parameters(generation: Generation) -> dict[str, Any]:
    sampler, schedule = sampler_labels(generation.scheduler)
    return {
        "prompt": generation.prompt,
        "negative_prompt": generation.negative_prompt,
        "styles": [],
        "seed": generation.seed,
        "subseed": generation.seed,
        "subseed_strength": 0,
        "seed_resize_from_h": -1,
        "seed_resize_from_w": -1,
        "sampler_name": sampler,
        "scheduler": schedule,
        "batch_size": generation.num_images,
        "n_iter": 1,
        "steps": generation.num_inference_steps,
        "cfg_scale": generation.guidance_scale,
        "width": generation.width,
        "height": generation.height,
        "restore_faces": False,
        "tiling": False,
        "denoising_strength": generation.strength,
        "override_settings": {},
        "script_args": [],
        "alwayson_scripts": {},
        "send_images": True,
        "save_images": False,
    }


def _info(generation: Generation, infotexts: list[str], warnings: list[dict[str, Any]]) -> dict[str, Any]:
    count = generation.num_images
    seeds = [(generation.seed + index) % (MAX_SEED + 1) for index in range(count)]
    sampler, _ = sampler_labels(generation.scheduler)
    return {
        "prompt": generation.prompt,
        "all_prompts": [generation.prompt] * count,
        "negative_prompt": generation.negative_prompt,
        "all_negative_prompts": [generation.negative_prompt] * count,
        "seed": generation.seed,
        "all_seeds": seeds,
        "subseed": generation.seed,
        "all_subseeds": seeds,
        "subseed_strength": 0,
        "width": generation.width,
        "height": generation.height,
        "sampler_name": sampler,
        "cfg_scale": generation.guidance_scale,
        "steps": generation.num_inference_steps,
        "batch_size": count,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": generation.checkpoint.id,
        "sd_model_hash": checkpoint_hash(generation.checkpoint),
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": generation.strength,
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": infotexts,
        "styles": [],
        "job_timestamp": generation.created_at.strftime(TIMESTAMP),
        "clip_skip": (generation.clip_skip or 0) + 1,
        "is_using_inpainting_conditioning": False,
        "version": VERSION,
        "job_id": str(generation.id),
        "warnings": warnings,
    }
