"""Which generations can be drawn together: those of equal keys."""

import hashlib
import json
from collections.abc import Sequence

from generation.choices import Acceleration
from generation.models import Generation
from models_registry.family_facts import drawn_size


def batch_key(generation: Generation, *, adapters: Sequence[tuple[str, float]]) -> str:
    """What a new generation has in common with those that it can be drawn with; "" for one that is drawn alone.

    `adapters` are the ids (or repositories) and scales of its LoRA, in their order. Prompt, seed, steps, scheduler,
    guidance, kind, strength and previews are each one's own.
    """
    if generation.reproducible or generation.acceleration != Acceleration.NONE:
        return ""
    checkpoint = generation.checkpoint
    size = (generation.width, generation.height)
    drawn = drawn_size(family=checkpoint.family, size=size, multiple=checkpoint.side_multiple)
    common = [
        checkpoint.id,
        checkpoint.revision,
        checkpoint.dtype,
        *(drawn or size),
        [list(adapter) for adapter in adapters],
    ]
    return hashlib.sha256(json.dumps(common).encode()).hexdigest()[:32]
