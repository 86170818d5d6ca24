"""Models by the names that A1111's clients use for them."""

import re
from typing import Final

from generation.requests.loras import MAX_NAME
from imagegen_project.common.serializers import TextField
from models_registry.errors import ModelNotEnabledError, ModelNotFoundError
from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_get, checkpoint_hash, checkpoints_enabled

_TITLE: Final = re.compile(r"(.*\S)\s*\[[0-9a-fA-F]{6,64}\]")
_HASH: Final = re.compile(r"[0-9a-f]{8,64}")
_SUFFIXES: Final = (".safetensors", ".ckpt")


def checkpoint_named(value: object) -> Checkpoint:
    """The checkpoint of a registry id, a repository, `name.safetensors`, `name [hash]`, a title or a hash.

    Raises ModelNotFoundError where there is none, ModelNotEnabledError where it is not enabled, and ValidationError for
    what is no name.
    """
    name = TextField(max_length=MAX_NAME).run_validation(value)
    for known in _names(name):
        try:
            return checkpoint_get(name=known)
        except ModelNotEnabledError:
            raise
        except ModelNotFoundError:
            continue
    digest = name.lower()
    if _HASH.fullmatch(digest):
        for checkpoint in checkpoints_enabled():
            if checkpoint.revision.startswith(digest) or checkpoint_hash(checkpoint) == digest:
                return checkpoint
    known_ids = ", ".join(checkpoints_enabled().values_list("id", flat=True))
    raise ModelNotFoundError(f"There is no such model. Known: {known_ids}.")


def _names(name: str) -> list[str]:
    """What a name may be in the registry, the plainest reading last."""
    if titled := _TITLE.fullmatch(name):
        name = titled[1]
    file = name.replace("\\", "/").rpartition("/")[2]
    shorter = [text.removesuffix(suffix) for text in (name, file) for suffix in _SUFFIXES]
    return list(dict.fromkeys([name, *shorter, *(text.lower() for text in shorter)]))
