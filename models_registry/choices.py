"""Fixed words of the registry, and what holds for each family of checkpoints."""

from dataclasses import dataclass
from typing import Final

from django.db import models

BUILTIN_ID = "builtin"


class Family(models.TextChoices):
    """The architecture a checkpoint belongs to; it decides which adapters fit and which limits hold."""

    BUILTIN = "builtin", "built-in"
    SD1 = "sd1", "Stable Diffusion 1.x"
    SD2 = "sd2", "Stable Diffusion 2.x"
    SDXL = "sdxl", "Stable Diffusion XL"
    SD3 = "sd3", "Stable Diffusion 3.x"
    FLUX = "flux", "FLUX.1"
    OTHER = "other", "another that diffusers' AutoPipeline can load"


@dataclass(frozen=True)
class FamilyFacts:
    """What a request may ask of a family beside its checkpoint's own scheduler.

    `schedulers` are names that fit; `max_clip_skip` is how many layers of the text encoder may be left out, 0 where
    that is not supported.
    """

    schedulers: tuple[str, ...]
    max_clip_skip: int


# For noise-predicting checkpoints; a flow-matching one has one scheduler, and another would draw noise.
_DIFFUSION: Final = (
    "ddim",
    "ddpm",
    "euler",
    "euler_a",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "dpmpp_2m_sde",
    "unipc",
    "lcm",
)
# clip_skip: one layer less than the text encoder has, the last being the one that is always used.
FAMILY_FACTS: Final[dict[str, FamilyFacts]] = {
    Family.BUILTIN: FamilyFacts(_DIFFUSION, max_clip_skip=2),
    Family.SD1: FamilyFacts(_DIFFUSION, max_clip_skip=11),
    Family.SD2: FamilyFacts(_DIFFUSION, max_clip_skip=22),
    Family.SDXL: FamilyFacts(_DIFFUSION, max_clip_skip=10),
    Family.SD3: FamilyFacts(("euler",), max_clip_skip=0),
    Family.FLUX: FamilyFacts(("euler",), max_clip_skip=0),
    Family.OTHER: FamilyFacts((), max_clip_skip=0),
}


class Dtype(models.TextChoices):
    """The number format of the weights while they run; `auto` is half precision on a GPU, single on a CPU."""

    AUTO = "auto"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


class DiskState(models.TextChoices):
    """Where a checkpoint's files stand; `broken` means that the last attempt failed, or that they cannot be used."""

    ABSENT = "absent"
    DOWNLOADING = "downloading"
    PRESENT = "present"
    BROKEN = "broken"


class DownloadProblem(models.TextChoices):
    """Why a checkpoint is broken; stable for clients."""

    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not_found"
    RATE_LIMITED = "rate_limited"
    HUB_ERROR = "hub_error"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    OFFLINE = "offline"
    TRUNCATED = "truncated"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    BAD_HEADER = "bad_header"
    UNSUPPORTED = "unsupported"
    DISK_FULL = "disk_full"
    DISK_ERROR = "disk_error"
    UNUSABLE = "unusable"
    INTERNAL_ERROR = "internal_error"
