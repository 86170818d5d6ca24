"""Ends generations the way a worker does, with a drawn picture in the engine's place."""

import hashlib
import io
from typing import Any

from PIL import Image

from generation.attempts import attempt_succeed
from generation.models import Generation
from generation.pictures.files import FinishedImage


def drawn_picture(colour: str = "red", *, seed: int = 7) -> FinishedImage:
    """A small real PNG."""
    image = Image.new("RGB", (16, 16), colour)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return FinishedImage(buffer.getvalue(), hashlib.sha256(image.tobytes()).hexdigest(), 16, 16, seed)


def succeed(claimed: Generation, *, colour: str = "red", **changes: Any) -> bool:
    """Ends a claimed generation with one picture."""
    values: dict[str, Any] = {
        "images": [drawn_picture(colour, seed=claimed.seed)],
        "receipt": {"request": {"seed": claimed.seed}, "model": {"id": "builtin"}, "environment": {}},
        "latency_ms": 12,
        "vram_peak_mb": 34,
    }
    return attempt_succeed(generation=claimed, **values | changes)
