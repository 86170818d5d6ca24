"""Ends generations and renews leases the way a worker does, with a drawn picture in the engine's place."""

import hashlib
import io
from typing import Any
from uuid import UUID

from django.test import TestCase
from PIL import Image

from generation.attempts import Lease, Progress, attempt_succeed, attempts_renew
from generation.choices import Phase
from generation.feed.messages import EventType
from generation.models import Generation
from generation.pictures.files import FinishedImage


def drawn_picture(colour: str = "red", *, seed: int = 7) -> FinishedImage:
    """A small real PNG."""
    image = Image.new("RGB", (16, 16), colour)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return FinishedImage(buffer.getvalue(), hashlib.sha256(image.tobytes()).hexdigest(), 16, 16, seed)


def unheard(generation_id: UUID, event_type: EventType, *, attempt: int, **data: Any) -> None:
    """In a worker's publisher's place: the tests say themselves what goes into a feed."""


def succeed(claimed: Generation, *, colour: str = "red", **changes: Any) -> bool:
    """Ends a claimed generation with one picture."""
    values: dict[str, Any] = {
        "images": [drawn_picture(colour, seed=claimed.seed)],
        "receipt": {"request": {"seed": claimed.seed}, "model": {"id": "builtin"}, "environment": {}},
        "latency_ms": 12,
        "vram_peak_mb": 34,
    }
    # What follows an end follows its commit, for which a test's own transaction would wait.
    with TestCase.captureOnCommitCallbacks(execute=True):
        return attempt_succeed(generation=claimed, publish=unheard, **values | changes)


def attempt_renew(*, generation_id: UUID, attempt: int, step: int, phase: Phase = Phase.DENOISING) -> Lease:
    """Renews one attempt's lease, as a worker does those of all that it draws."""
    key = (generation_id, attempt)
    return attempts_renew(progress={key: Progress(step, phase)})[key]
