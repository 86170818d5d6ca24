"""What goes into the engine and what comes out, as plain values."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class ModelRef:
    """Which checkpoint to use: its name, the folder with its weights, and the number format to run it in."""

    id: str
    repository: str
    revision: str
    folder: Path
    dtype: str = "auto"


@dataclass(frozen=True)
class Batch:
    """One request's pictures, drawn together. Picture i uses `seed + i`, wrapping at 2**32."""

    model: ModelRef
    prompt: str
    negative_prompt: str
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    seed: int
    num_images: int = 1

    @property
    def seeds(self) -> list[int]:
        """Each picture's seed."""
        return [(self.seed + index) % (MAX_SEED + 1) for index in range(self.num_images)]


@dataclass(frozen=True)
class Picture:
    """One finished picture: a PNG, and the SHA-256 of its RGB pixels."""

    data: bytes
    pixel_sha256: str
    width: int
    height: int
    seed: int


@dataclass(frozen=True)
class BatchResult:
    """The pictures, what they were made with, and what it took."""

    pictures: list[Picture]
    environment: dict[str, Any]
    memory_peak_mb: int


# Called after each step with (step, total_steps).
OnStep = Callable[[int, int], None]
# Answers a reason to stop before the next step, or None to go on.
ShouldStop = Callable[[], str | None]
