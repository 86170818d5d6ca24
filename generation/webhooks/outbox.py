"""Webhooks, up to the outbox: addresses, signing secrets, and the message that a move leaves behind.

The messages follow Standard Webhooks (https://www.standardwebhooks.com); `generation/webhooks/delivery.py` sends them.
"""

from typing import Any, Final
from uuid import UUID

from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone
from redis.exceptions import RedisError

from generation.choices import DeliveryStatus, Status, WebhookEvent
from generation.models import Generation, WebhookDelivery
from generation.webhooks.signing import webhook_is_gone
from imagegen_project.common.queues import WEBHOOKS_QUEUE, entries_push, entries_waiting

# By dotted name: only the webhook worker runs it.
DELIVER_DUE: Final = "generation.webhooks.delivery.deliver_due"

EVENTS: Final = {
    Status.RUNNING: WebhookEvent.STARTED,
    Status.SUCCEEDED: WebhookEvent.SUCCEEDED,
    Status.FAILED: WebhookEvent.FAILED,
    Status.CANCELED: WebhookEvent.CANCELED,
}


def webhook_note(*, generation_id: UUID, to: Status) -> None:
    """Puts the message about a move into the outbox, where it was asked for; in the transaction of the move."""
    event = EVENTS.get(to)
    if event is None:
        return
    asked = Generation.objects.filter(pk=generation_id, webhook_events__contains=[event])
    generation = asked.exclude(webhook_url="").first()
    if generation is None or webhook_is_gone(owner_id=generation.owner_id, url=generation.webhook_url):
        return
    WebhookDelivery.objects.create(
        owner_id=generation.owner_id,
        generation=generation,
        url=generation.webhook_url,
        event=event,
        payload=_payload(generation, event, to),
        next_attempt_at=Now(),
    )
    transaction.on_commit(webhooks_wake)


def _payload(generation: Generation, event: WebhookEvent, status: Status) -> dict[str, Any]:
    """Small, and without the prompt: it says what happened and where the rest is."""
    base = generation.get_absolute_url()
    images = range(generation.num_images) if status is Status.SUCCEEDED else ()
    return {
        "type": f"generation.{event}",
        "timestamp": timezone.now().isoformat(timespec="milliseconds"),
        "data": {
            "job_id": str(generation.id),
            "kind": generation.kind,
            "status": status,
            "model": generation.checkpoint_id,
            "seed": generation.seed,
            "attempt": generation.attempt,
            "error": generation.error,
            "url": base,
            "images": [f"{base}/images/{index}" for index in images],
        },
    }


def webhooks_wake(*, entries: int = 1) -> bool:
    """Tells the webhook worker that there is work; False when Redis is unreachable (the sweep tells it later)."""
    return entries_push(WEBHOOKS_QUEUE, DELIVER_DUE, entries=entries)


def delivery_retry(*, delivery: WebhookDelivery) -> bool:
    """Has a message sent now that was to be sent later, or had failed; False where it arrived, or is being sent."""
    waiting = WebhookDelivery.objects.filter(
        pk=delivery.pk, status__in=(DeliveryStatus.PENDING, DeliveryStatus.FAILED), claimed_until__isnull=True
    )
    moved = waiting.update(status=DeliveryStatus.PENDING, finished_at=None, next_attempt_at=Now()) == 1
    if moved:
        transaction.on_commit(webhooks_wake)
    return moved


def webhooks_restore() -> bool:
    """Wakes the webhook worker where deliveries are due and nobody said so; whether it did."""
    due = WebhookDelivery.objects.filter(status=DeliveryStatus.PENDING, next_attempt_at__lte=Now())
    try:
        return due.exists() and not entries_waiting(WEBHOOKS_QUEUE) and webhooks_wake()
    except (RedisError, OSError):
        return False
