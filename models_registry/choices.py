"""Fixed words of the registry, and what holds for each family of checkpoints."""

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
