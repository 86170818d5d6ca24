"""Fixed words of a generation's life."""

from typing import Final

from django.db import models


class Kind(models.TextChoices):
    """What a generation starts from."""

    TXT2IMG = "txt2img", "text to image"
    IMG2IMG = "img2img", "image to image"
    INPAINT = "inpaint", "inpainting"
    EDIT = "edit", "edit by instruction"


class PromptSyntax(models.TextChoices):
    """How a prompt is read."""

    PLAIN = "plain", "as it stands"
    WEIGHTED = "weighted", "with weights, as A1111 reads it"


class Acceleration(models.TextChoices):
    """How a denoiser's work is made less, at a small loss."""

    NONE = "none", "none"
    FIRST_BLOCK_CACHE = "first_block_cache", "blocks left out where a step brings little new"


class OutputFormat(models.TextChoices):
    """The file format of finished pictures."""

    PNG = "png", "PNG"
    JPEG = "jpeg", "JPEG"
    WEBP = "webp", "WebP"


class Fit(models.TextChoices):
    """How a model fits into a worker's memory, as the engine's planner says it."""

    FITS = "fits", "at once"
    WITH_OFFLOAD = "fits_with_offload", "its parts in turns"
    IN_FLOAT8 = "fits_in_float8", "with the denoiser's weights in eight bits"
    IN_BLOCKS = "fits_in_blocks", "block by block, at each step anew"
    TOO_LARGE = "too_large", "not at all"
    NEEDS_LIBRARY = "needs_library", "not before a library is installed that reads its weights"


# Models that a worker cannot run as it is.
UNFIT: Final = (Fit.TOO_LARGE, Fit.NEEDS_LIBRARY)


class Status(models.TextChoices):
    """Where a generation stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class Phase(models.TextChoices):
    """What is done for a generation that has not ended."""

    QUEUED = "queued"
    DOWNLOADING = "downloading"
    LOADING = "loading"
    DENOISING = "denoising"
    DECODING = "decoding"
    SAVING = "saving"


# Tuples, not sets: they go into CHECK constraints, and a set's order would make migrations unstable.
TERMINAL = (Status.SUCCEEDED, Status.FAILED, Status.CANCELED)
ACTIVE = (Status.QUEUED, Status.RUNNING)

ALLOWED_FROM: dict[Status, tuple[Status, ...]] = {
    Status.QUEUED: (Status.RUNNING,),
    Status.RUNNING: (Status.QUEUED,),
    Status.SUCCEEDED: (Status.RUNNING,),
    Status.FAILED: (Status.QUEUED, Status.RUNNING),
    Status.CANCELED: (Status.QUEUED, Status.RUNNING),
}


class ErrorCode(models.TextChoices):
    """Why a generation failed; stable for clients."""

    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    WORKER_LOST = "worker_lost"
    MODEL_UNAVAILABLE = "model_unavailable"
    ENGINE_ERROR = "engine_error"
    LORA_UNAVAILABLE = "lora_unavailable"
    LORA_INCOMPATIBLE = "lora_incompatible"
    UNSAFE = "unsafe"
    WOULD_BE_ADJUSTED = "would_be_adjusted"
    STORAGE_UNAVAILABLE = "storage_unavailable"


class WebhookEvent(models.TextChoices):
    """What a webhook can tell of a generation."""

    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class DeliveryStatus(models.TextChoices):
    """Where a webhook's delivery stands."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    DISABLED = "disabled"


class SafetyResult(models.TextChoices):
    """What the safety filter said about a generation's pictures."""

    NOT_CHECKED = "not_checked"
    PASSED = "passed"
    FLAGGED = "flagged"
    BLOCKED = "blocked"


class WorkerStatus(models.TextChoices):
    """What a GPU worker is doing."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    LOADING = "loading"
    DRAINING = "draining"


class CommandKind(models.TextChoices):
    """An order to a GPU worker."""

    LOAD = "load"
    UNLOAD = "unload"
    ATTACH = "attach"
    DETACH = "detach"
    DRAIN = "drain"


class CommandStatus(models.TextChoices):
    """Where an order stands."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


# OpenAI's `quality`, as a share of a model's own number of steps.
QUALITY_STEPS: Final = {"low": 0.5, "medium": 1.0, "high": 1.5, "xhigh": 2.0, "max": 3.0}


class ReplayVerdict(models.TextChoices):
    """How a replay's pictures compare with its original's."""

    EXACT = "exact"
    CLOSE = "close"
    DIFFERENT = "different"
