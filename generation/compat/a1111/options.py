"""What users set through A1111's `options`."""

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from django.contrib.auth.models import User
from rest_framework import serializers

from generation.choices import OutputFormat
from generation.compat.a1111.checkpoints import checkpoint_named
from generation.compat.a1111.params import LenientParams
from generation.compat.dialect import refuse
from generation.models import A1111Options
from models_registry.errors import ModelNotFoundError
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
    rows = A1111Options.objects.select_related("checkpoint", "owner")
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


def options_read(params: LenientParams, present: A1111Options, *, must_exist: bool) -> A1111Options:
    """The present options, not stored, with those that requests follow taken from the parameters.

    A model that there is not is blamed where it `must_exist`, else a warning: A1111 then draws with the present one.
    """
    used = A1111Options(
        owner_id=present.owner_id,
        checkpoint=present.checkpoint,
        clip_skip=present.clip_skip,
        output_format=present.output_format,
        kept=present.kept,
    )
    if (model := params.take("sd_model_checkpoint")) not in (None, ""):
        try:
            used.checkpoint = checkpoint_named(model)
        except ModelNotFoundError as error:
            if must_exist:
                params.blame("sd_model_checkpoint", error.detail, error.code)
            else:
                own = present.checkpoint or checkpoint_default()
                params.note("sd_model_checkpoint", error.detail, used=own.id)
        except serializers.ValidationError as error:
            params.errors.setdefault(params.named("sd_model_checkpoint"), error.detail)
    if stop := params.within("CLIP_stop_at_last_layers", low=0, high=MAX_CLIP_STOP, whole=True):
        used.clip_skip = stop - 1
    used.output_format = _format(params, present.output_format)
    return used


def _format(params: LenientParams, present: str) -> str:
    name = params.take("samples_format", "")
    if not isinstance(name, str):
        params.blame("samples_format", "Text is expected.")
    elif name and name.lower() not in SAMPLES_FORMATS:
        known = ", ".join(SAMPLES_FORMATS)
        params.note(
            "samples_format", f"Pictures come as one of {known}.", used=_FORMAT_NAMES[OutputFormat(present)]
        )
    else:
        return SAMPLES_FORMATS.get(name.lower(), present)
    return present


def options_set(*, owner: User, body: Any) -> None:
    """Keeps what is given beside what was kept before: some options are followed, the others only returned.

    Raises ValidationError, also where there would be too many of them or too much in them.
    """
    params = LenientParams(body)
    wanted = options_read(params, options_get(owner=owner), must_exist=True)
    params.strict_check()
    params.check()
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
