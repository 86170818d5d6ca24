"""OpenAI's names of models: what they mean here, and how they are listed."""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from django.conf import settings

from generation.compat.dialect import Params, warning
from models_registry.errors import ModelNotFoundError
from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_default, checkpoint_get, checkpoints_enabled

# What patterns stand for in a list. Those that OpenAI has had; clients know them by heart.
_OPENAI_NAMES: Final = (
    "chatgpt-image-latest",
    "dall-e-2",
    "dall-e-3",
    "gpt-image-1",
    "gpt-image-1-mini",
    "gpt-image-1.5",
    "gpt-image-2",
    "gpt-image-2.5-flare",
    "gpt-image-2.5-sunburst",
)
# What can be a model's name, or stand for one.
_NAME: Final = re.compile(r"[ -~]{1,200}")


@dataclass(frozen=True)
class ModelMeant:
    """What a request calls its model, the native field for it, and the model; None where there is none."""

    name: str
    data: dict[str, Any]
    checkpoint: Checkpoint | None


def model_read(params: Params) -> ModelMeant:
    """The model that a request means; a name that only stands for it is warned of."""
    name = params.take("model")
    if name is None:
        return ModelMeant("", {}, _default())
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return ModelMeant("", {"model": name}, None)  # no name at all, which the native field says
    if (checkpoint := _named(name)) is not None:
        return ModelMeant(name, {"model": name}, checkpoint)
    if (checkpoint := alias_resolve(name)) is None:
        return ModelMeant(name, {"model": name}, None)
    params.warnings.append(warning("model", "That name stands for a model of this server.", checkpoint.id))
    return ModelMeant(name, {"model": checkpoint.id}, checkpoint)


def alias_resolve(name: str) -> Checkpoint | None:
    """What a name means that is no model's own: by the models' `aliases`, then by MODEL_ALIASES; else None."""
    for checkpoint in checkpoints_enabled().exclude(aliases=[]):
        if _matches(name, checkpoint.aliases):
            return checkpoint
    for pattern, model in settings.MODEL_ALIASES:
        if _matches(name, [pattern]):
            return _named(model) if model else _default()
    return None


def aliases_listed() -> list[dict[str, Any]]:
    """The names that stand for models, in the shape of OpenAI's list; patterns by the names that OpenAI has had."""
    patterns = [pattern for pattern, _ in settings.MODEL_ALIASES]
    for checkpoint in checkpoints_enabled().exclude(aliases=[]):
        patterns += checkpoint.aliases
    plain = {pattern for pattern in patterns if "*" not in pattern}
    known = {name for name in _OPENAI_NAMES if _matches(name, patterns)}
    models = {row.id for row in checkpoints_enabled()} | {row.repository for row in checkpoints_enabled()}
    found = {name: alias_resolve(name) for name in sorted((plain | known) - models)}
    return [
        {
            "id": name,
            "object": "model",
            "created": int(checkpoint.created_at.timestamp()),
            "owned_by": checkpoint.repository.partition("/")[0],
            "alias_of": checkpoint.id,
        }
        for name, checkpoint in found.items()
        if checkpoint is not None
    ]


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _named(model: str) -> Checkpoint | None:
    try:
        return checkpoint_get(name=model)
    except ModelNotFoundError:
        return None


def _default() -> Checkpoint | None:
    try:
        return checkpoint_default()
    except ModelNotFoundError:
        return None
