"""What A1111's clients may choose from; empty where there is nothing of the kind."""

from collections.abc import Mapping
from typing import Any, Final

import psutil
from django.contrib.auth.models import User
from django.db.models import Sum

from generation.compat.a1111.extras import NO_UPSCALER, UPSCALERS
from generation.compat.a1111.scripts import SCRIPT_INFO, SCRIPTS
from generation.models import Worker
from generation.requests.a1111_words import SAMPLERS, SCHEDULE_TYPES
from loras.choices import LoraState
from loras.selectors import loras_visible
from models_registry.selectors import checkpoint_hash, checkpoints_enabled

_MIB: Final = 1024 * 1024
# Flags of A1111's command line that clients look at.
_FLAGS: Final[Mapping[str, Any]] = {
    "api": True,
    "nowebui": True,
    "listen": False,
    "share": False,
    "api_server_stop": False,
    "enable_insecure_extension_access": False,
    "lowvram": False,
    "medvram": False,
    "ckpt": None,
    "vae_path": None,
    "subpath": None,
}


def samplers() -> list[dict[str, Any]]:
    """Every sampler; on a model that one does not fit, another is used with a warning."""
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
            "hash": checkpoint_hash(checkpoint) or None,
            "sha256": None,
            "filename": checkpoint.repository,
            "config": None,
        }
        for checkpoint in checkpoints_enabled()
    ]


def loras(user: User) -> list[dict[str, Any]]:
    """The LoRA that this user's prompts may name."""
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


def upscalers() -> list[dict[str, Any]]:
    """What `extra-single-image` resizes by."""
    return [
        {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": scale}
        for name, scale in ((NO_UPSCALER, 1), *((name, 4) for name in UPSCALERS))
    ]


def memory() -> dict[str, Any]:
    """This host's memory, and that of all GPU workers' devices together, in bytes."""
    ram = psutil.virtual_memory()
    devices = Worker.objects.live().aggregate(total=Sum("memory_total_mb"), free=Sum("memory_free_mb"))
    total, free = (devices[name] or 0 for name in ("total", "free"))
    system = {"free": free * _MIB, "used": (total - free) * _MIB, "total": total * _MIB}
    return {
        "ram": {"free": ram.available, "used": ram.total - ram.available, "total": ram.total},
        "cuda": {"system": system} if total else {"error": "unavailable"},
    }


# Route -> what it answers, or what makes it.
LISTS: Final[Mapping[str, Any]] = {
    "sd-models": models,
    "samplers": samplers,
    "schedulers": schedule_types,
    "upscalers": upscalers,
    "memory": memory,
    "scripts": SCRIPTS,
    "script-info": SCRIPT_INFO,
    "cmd-flags": dict(_FLAGS),
    "embeddings": {"loaded": {}, "skipped": {}},
    **{
        name: []
        for name in (
            *("latent-upscale-modes", "sd-vae", "sd-modules", "hypernetworks", "face-restorers"),
            *("realesrgan-models", "prompt-styles", "extensions"),
        )
    },
}
