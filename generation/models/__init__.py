"""The tables of the job, a file per subject."""

from generation.models.generations import (
    MAX_PRIORITY,
    MAX_SEED,
    A1111Options,
    GeneratedImage,
    Generation,
    GenerationLora,
    Worker,
    WorkerCommand,
)
from generation.models.webhooks import (
    MAX_IDEMPOTENCY_KEY_CHARACTERS,
    MAX_WEBHOOK_URL_CHARACTERS,
    IdempotencyKey,
    QueueTurn,
    WebhookDelivery,
    WebhookGone,
    WebhookSecret,
    WorkEntry,
)

__all__ = [
    "MAX_IDEMPOTENCY_KEY_CHARACTERS",
    "MAX_PRIORITY",
    "MAX_SEED",
    "MAX_WEBHOOK_URL_CHARACTERS",
    "A1111Options",
    "GeneratedImage",
    "Generation",
    "GenerationLora",
    "IdempotencyKey",
    "QueueTurn",
    "WebhookDelivery",
    "WebhookGone",
    "WebhookSecret",
    "WorkEntry",
    "Worker",
    "WorkerCommand",
]
