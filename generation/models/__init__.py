"""The tables of the job, a file per subject."""

from generation.models.a1111 import A1111Options
from generation.models.generations import (
    MAX_EDIT_IMAGES,
    MAX_MASK_PADDING,
    MAX_PRIORITY,
    MAX_SEED,
    PIXEL_STEPS,
    PROMPT_WORDS,
    GeneratedImage,
    Generation,
    GenerationLora,
)
from generation.models.idempotency import MAX_IDEMPOTENCY_KEY_CHARACTERS, IdempotencyKey
from generation.models.queue import QueueTurn, Standing, WorkEntry
from generation.models.request import DEFAULT_OUTPUT_QUALITY, REQUEST_FIELDS, GenerationRequest
from generation.models.shares import Share, share_id
from generation.models.webhooks import MAX_WEBHOOK_URL_CHARACTERS, WebhookDelivery, WebhookGone, WebhookSecret
from generation.models.workers import WORKER_ALIVE, Worker, WorkerCommand

__all__ = [
    "DEFAULT_OUTPUT_QUALITY",
    "MAX_EDIT_IMAGES",
    "MAX_IDEMPOTENCY_KEY_CHARACTERS",
    "MAX_MASK_PADDING",
    "MAX_PRIORITY",
    "MAX_SEED",
    "MAX_WEBHOOK_URL_CHARACTERS",
    "PIXEL_STEPS",
    "PROMPT_WORDS",
    "REQUEST_FIELDS",
    "WORKER_ALIVE",
    "A1111Options",
    "GeneratedImage",
    "Generation",
    "GenerationLora",
    "GenerationRequest",
    "IdempotencyKey",
    "QueueTurn",
    "Share",
    "Standing",
    "WebhookDelivery",
    "WebhookGone",
    "WebhookSecret",
    "WorkEntry",
    "Worker",
    "WorkerCommand",
    "share_id",
]
