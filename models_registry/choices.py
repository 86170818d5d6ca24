"""Fixed words of the registry, and what holds for each family of checkpoints."""

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
    FLUX2 = "flux2", "FLUX.2"
    QWEN_IMAGE = "qwen-image", "Qwen-Image"
    Z_IMAGE = "z-image", "Z-Image"
    CHROMA = "chroma", "Chroma"
    SANA = "sana", "Sana"
    PIXART = "pixart", "PixArt"
    LUMINA2 = "lumina2", "Lumina 2"
    OTHER = "other", "another"


class Dtype(models.TextChoices):
    """The number format of the weights while they run.

    `auto` is the faster of single precision and bfloat16 on a CPU, by its processor, and on a GPU the half precision
    that the weights were made for; the denoiser's are stored in eight bits where sixteen do not fit. `float8` stores
    them so in any case, but for U-Nets.
    """

    AUTO = "auto"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"
    FLOAT8 = "float8"


class DiskState(models.TextChoices):
    """Where a checkpoint's files stand; `broken` means that another attempt would end as the last one did.

    What passes by itself, such as a Hub that cannot be reached, leaves `absent`, with the reason beside it.
    """

    ABSENT = "absent"
    DOWNLOADING = "downloading"
    PRESENT = "present"
    BROKEN = "broken"


class DownloadProblem(models.TextChoices):
    """Why a checkpoint or an adapter is not there; stable for clients."""

    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not_found"
    RATE_LIMITED = "rate_limited"
    HUB_ERROR = "hub_error"
    TIMEOUT = "timeout"
    TOO_SLOW = "too_slow"
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


# They say nothing about the repository: the same request may succeed later.
PASSING: Final = frozenset(
    {
        DownloadProblem.RATE_LIMITED,
        DownloadProblem.HUB_ERROR,
        DownloadProblem.TIMEOUT,
        DownloadProblem.TOO_SLOW,
        DownloadProblem.UNREACHABLE,
        DownloadProblem.OFFLINE,
        DownloadProblem.TRUNCATED,
        DownloadProblem.DISK_FULL,
        DownloadProblem.DISK_ERROR,
    }
)
