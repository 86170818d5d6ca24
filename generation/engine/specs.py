"""What goes into the engine and what comes out, as plain values."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generation.engine.previews import Preview

MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class ModelRef:
    """Which checkpoint to use: its name, the folder with its weights, and the number format to run it in.

    `variant` prefers weights files of that name, such as `fp16`, where the folder holds several. `short_hash` stands
    for it in pictures' metadata.
    """

    id: str
    repository: str
    revision: str
    folder: Path
    dtype: str = "auto"
    variant: str = ""
    short_hash: str = ""


@dataclass(frozen=True)
class AdapterUse:
    """One LoRA adapter in one request: its name there, its file and that file's SHA-256, and how strongly it counts."""

    name: str
    sha256: str
    path: Path
    scale: float


@dataclass(frozen=True)
class Batch:
    """One request's pictures, drawn together. Picture i uses `seed + i`, wrapping at 2**32.

    `image` and `mask` are files (PNG) of width x height, `images` those to edit, of any size. `true_cfg_scale` counts
    the negative prompt where `guidance_scale` is an input of the model. `prompt_syntax` is `plain`, or `weighted`
    (`weighted.py`). `acceleration` is `none`, or `first_block_cache` (`acceleration.py`). `scheduler` is one of
    `SAMPLERS`, with or without one of `SCHEDULES` behind it, or "" for the checkpoint's own. `drawn_size` is the width
    and height at which the pictures are drawn, before they are enlarged. With `padding_mask_crop` only what is masked,
    and so many pixels around it, is drawn at that size, and put back into the picture. `strict` refuses what would have
    to be adjusted. `preview_every` so many steps there is a preview; 0: none. `output_quality` is that of JPEG and
    WebP, 0 to 100. `software` is what pictures' metadata say that they were made with. `reproducible` runs what any
    host runs: nothing that was compiled.
    """

    model: ModelRef
    prompt: str
    negative_prompt: str
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    seed: int
    num_images: int = 1
    kind: str = "txt2img"
    scheduler: str = ""
    clip_skip: int | None = None
    true_cfg_scale: float | None = None
    guidance_rescale: float = 0.0
    prompt_syntax: str = "plain"
    acceleration: str = "none"
    strength: float | None = None
    padding_mask_crop: int | None = None
    image: bytes | None = field(default=None, repr=False)
    mask: bytes | None = field(default=None, repr=False)
    images: tuple[bytes, ...] = field(default=(), repr=False)
    adapters: tuple[AdapterUse, ...] = ()
    output_format: str = "png"
    output_quality: int = 95
    strict: bool = False
    preview_every: int = 0
    reproducible: bool = False
    drawn_size: tuple[int, int] | None = None
    software: str = ""

    @property
    def seeds(self) -> list[int]:
        """Each picture's seed."""
        return [(self.seed + index) % (MAX_SEED + 1) for index in range(self.num_images)]


@dataclass(frozen=True)
class Picture:
    """One finished picture: the file, its content type, and the SHA-256 of its RGB pixels before compression."""

    index: int
    data: bytes
    content_type: str
    pixel_sha256: str
    width: int
    height: int
    seed: int


@dataclass(frozen=True)
class BatchResult:
    """The pictures, what they were made with, and what it took.

    `safety` is `passed`, `flagged`, `blocked` or `not_checked`; a blocked picture is not among `pictures`. `warnings`
    say what only the engine could see, as `{"param", "reason", "used"}`.
    """

    pictures: list[Picture]
    environment: dict[str, Any]
    memory_peak_mb: int
    safety: str = "not_checked"
    warnings: list[dict[str, Any]] = field(default_factory=list)
    # Which part of the device's time was its own, and whether others were being drawn when it began.
    share: float = 1.0
    joined: bool = False


@dataclass(frozen=True)
class CachedModel:
    """One model of the cache: `tier` is `resident`, `warm` (in host memory) or `loading`.

    `adapters` are the SHA-256 of the LoRA files attached to it; their weights count in `bytes`. `dtype` is its number
    format, "" until it has been read; `load_s` is how many seconds it took from the first wish for it to
    the device, the last time that it came there.
    """

    id: str
    tier: str
    bytes: int
    adapters: list[str] = field(default_factory=list)
    dtype: str = ""
    load_s: float = 0.0


# Called after each step with (step, total_steps).
OnStep = Callable[[int, int], None]
# Called with a preview before the step's `OnStep`; it costs nothing until it is asked for its picture.
OnPreview = Callable[[Preview], None]
# Called before the first step with each warning.
OnWarning = Callable[[dict[str, Any]], None]
# Answers a reason to stop before the next step, or None to go on.
ShouldStop = Callable[[], str | None]
