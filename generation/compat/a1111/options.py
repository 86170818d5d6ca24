"""What users set through A1111's `options`."""

from django.contrib.auth.models import User

from generation.models import A1111Options
from models_registry.selectors import checkpoint_get


def a1111_options_set(
    *, owner: User, checkpoint_name: str | None, clip_skip: int, output_format: str
) -> A1111Options:
    """Keeps all of them; without a name the service's default checkpoint is used. Raises ModelNotFoundError."""
    checkpoint = checkpoint_get(name=checkpoint_name) if checkpoint_name else None
    values = {"checkpoint": checkpoint, "clip_skip": clip_skip, "output_format": output_format}
    options, _ = A1111Options.objects.update_or_create(owner=owner, defaults=values)
    return options


def a1111_options_get(*, owner: User) -> A1111Options:
    """What a user has set through A1111's `options`; the defaults, not stored, where nothing was."""
    rows = A1111Options.objects.select_related("checkpoint")
    return rows.filter(owner=owner).first() or A1111Options(owner=owner)
