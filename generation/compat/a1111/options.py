"""What users set through A1111's `options`."""

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from django.contrib.auth.models import User

from generation.choices import OutputFormat
from generation.compat.a1111.checkpoints import checkpoint_named
from generation.compat.dialect import Params, refuse
from generation.models import A1111Options
from models_registry.selectors import checkpoint_default, checkpoint_hash

SAMPLES_FORMATS: Final[dict[str, str]] = {
    "png": OutputFormat.PNG,
    "jpg": OutputFormat.JPEG,
    "jpeg": OutputFormat.JPEG,
    "webp": OutputFormat.WEBP,
}
_FORMAT_NAMES: Final = {OutputFormat.PNG: "png", OutputFormat.JPEG: "jpg", OutputFormat.WEBP: "webp"}
MAX_CLIP_STOP: Final = 12
# What clients read there before anybody has set it. All of it is only kept.
_DEFAULTS: Final[Mapping[str, Any]] = {
    "sd_vae": "Automatic",
    "send_seed": True,
    "send_size": True,
    "samples_save": True,
    "grid_save": False,
    "enable_pnginfo": True,
    "jpeg_quality": 95,
    "img2img_color_correction": False,
    "img2img_background_color": "#ffffff",
    "face_restoration_model": "",
    "eta_noise_seed_delta": 0,
    "live_previews_enable": True,
    "show_progress_every_n_steps": 5,
    "sd_hypernetwork": "None",
    "upscaler_for_img2img": None,
}
_MAX_KEPT: Final = 500
_MAX_NAME_CHARACTERS: Final = 100
_MAX_KEPT_CHARACTERS: Final = 65_536
_MAX_DEPTH: Final = 8


def options_get(*, owner: User) -> A1111Options:
    """What a user has set through A1111's `options`; the defaults, not stored, where nothing was."""
    rows = A1111Options.objects.select_related("checkpoint")
    return rows.filter(owner=owner).first() or A1111Options(owner=owner)


def options_body(options: A1111Options) -> dict[str, Any]:
    """All options as clients read them."""
    checkpoint = options.checkpoint or checkpoint_default()
    return {
        **_DEFAULTS,
        **options.kept,
        "sd_model_checkpoint": checkpoint.id,
        "sd_checkpoint_hash": checkpoint_hash(checkpoint),
        "CLIP_stop_at_last_layers": options.clip_skip + 1,
        "samples_format": _FORMAT_NAMES[OutputFormat(options.output_format)],
    }


def options_read(params: Params, present: A1111Options) -> A1111Options:
    """The present options, not stored, with those that requests follow taken from the parameters.

    Raises ValidationError.
    """
    used = A1111Options(
        owner_id=present.owner_id,
        checkpoint=present.checkpoint,
        clip_skip=present.clip_skip,
        output_format=present.output_format,
        kept=present.kept,
    )
    if (model := params.take("sd_model_checkpoint")) not in (None, ""):
        used.checkpoint = checkpoint_named(model, param=params.named("sd_model_checkpoint"))
    if (stop := params.number("CLIP_stop_at_last_layers", low=0, high=MAX_CLIP_STOP, default=0)) > 0:
        used.clip_skip = stop - 1
    if name := params.choice("samples_format", ("", *SAMPLES_FORMATS), ""):
        used.output_format = SAMPLES_FORMATS[name]
    return used


def options_set(*, owner: User, body: Any) -> None:
    """Keeps what is given beside what was kept before: some options are followed, the others only returned.

    Raises ValidationError, also where there would be too many of them or too much in them.
    """
    params = Params(body)
    wanted = options_read(params, options_get(owner=owner))
    params.take("sd_checkpoint_hash")  # follows from the model
    kept = wanted.kept | params.rest()
    _check(kept)
    values = {name: getattr(wanted, name) for name in ("checkpoint", "clip_skip", "output_format")}
    A1111Options.objects.update_or_create(owner=owner, defaults=values | {"kept": kept})


def _check(kept: Mapping[str, Any]) -> None:
    """Raises ValidationError for what PostgreSQL cannot store, and for too much."""
    if len(kept) > _MAX_KEPT:
        refuse("non_field_errors", f"At most {_MAX_KEPT} options are kept.", "too_many_options")
    for name, value in kept.items():
        if len(name) > _MAX_NAME_CHARACTERS or not _is_storable({name: value}, _MAX_DEPTH):
            refuse("non_field_errors", "An option cannot be stored.", "options_unstorable")
    if len(json.dumps(kept)) > _MAX_KEPT_CHARACTERS:
        refuse(
            "non_field_errors", f"At most {_MAX_KEPT_CHARACTERS} characters are kept.", "options_too_large"
        )


def _is_storable(value: Any, depth: int) -> bool:
    """Whether it is not nested deeper, and has no text or number that PostgreSQL refuses."""
    if isinstance(value, dict | list):
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        return depth > 0 and all(_is_storable(part, depth - 1) for part in parts)
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
    return not isinstance(value, float) or math.isfinite(value)
