"""The one way from a client's request to a stored generation, whichever door it came through."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from django.contrib.auth.models import User

from generation.choices import Kind
from generation.models import Generation, GenerationRequest
from generation.requests.adjustments import request_adjust
from generation.requests.serializers import GenerationCreateIn
from generation.services import generation_create
from imagegen_project.common.errors import DomainError


def request_errors(
    *, owner: User, data: Any, kinds: tuple[Kind, ...], prompt_required: bool
) -> dict[str, Any]:
    """What is wrong with a request in the native fields, by field; as for `generation_submit`."""
    context = {"kinds": kinds, "owner": owner, "prompt_required": prompt_required}
    serializer = GenerationCreateIn(data=data, context=context)
    with contextlib.suppress(DomainError):  # a LoRA's own, where nothing else is wrong
        serializer.is_valid()
        return dict(serializer.errors)
    return {}


def generation_submit(
    *,
    owner: User,
    data: Any,
    kinds: tuple[Kind, ...] = tuple(Kind),
    prompt_required: bool = True,
    warnings: Iterable[dict[str, Any]] = (),
    name: Callable[[str], str] = str,
) -> Generation:
    """Validates, adjusts and stores a request in the native fields.

    `kinds` are those that the door makes; `warnings` is what the door itself had to adjust, and `name` what it calls a
    native field, for further ones. Raises ValidationError, which names the native fields, AdjustedError for a `strict`
    request, and what `generation_create` refuses.
    """
    context = {"kinds": kinds, "owner": owner, "prompt_required": prompt_required}
    serializer = GenerationCreateIn(data=data, context=context)
    serializer.is_valid(raise_exception=True)
    values, adjusted = request_adjust(serializer.validated_data)
    loras = values.pop("loras")
    pictures: dict[str, bytes] = {
        name: values.pop(name) for name in ("input_image", "mask_image") if name in values
    }
    edited: list[bytes] = values.pop("images", [])
    return generation_create(
        owner=owner,
        request=GenerationRequest(**values),
        pictures=pictures,
        edited=edited,
        loras=loras,
        warnings=[*warnings, *(entry | {"param": name(entry["param"])} for entry in adjusted)],
    )
