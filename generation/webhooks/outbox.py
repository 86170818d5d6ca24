"""Webhooks, up to the outbox: addresses, signing secrets, and the message that a move leaves behind.

The messages follow Standard Webhooks (https://www.standardwebhooks.com); `generation/webhooks/delivery.py` sends them.
"""

import base64
import secrets
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.crypto import salted_hmac
from redis.exceptions import RedisError

from generation.choices import DeliveryStatus, Status, WebhookEvent
from generation.models import Generation, WebhookDelivery, WebhookGone, WebhookSecret
from generation.selectors import error_of, generation_url
from generation.webhooks.transport import is_public
from imagegen_project.common.queues import WEBHOOKS_QUEUE, entries_push, entries_waiting

# By dotted name: only the webhook worker runs it.
DELIVER_DUE: Final = "generation.webhooks.delivery.deliver_due"

EVENTS: Final = {
    Status.RUNNING: WebhookEvent.STARTED,
    Status.SUCCEEDED: WebhookEvent.SUCCEEDED,
    Status.FAILED: WebhookEvent.FAILED,
    Status.CANCELED: WebhookEvent.CANCELED,
}


def webhook_url_problem(url: str) -> str | None:
    """What is wrong with an address, as far as it shows; where its name leads is looked at when it is used."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "Not an address."
    if not url.isascii() or not url.isprintable() or " " in url:
        return "Only printable ASCII; encode anything else."
    if parts.scheme not in ("http", "https") or not host:
        return "An address that begins with https:// or http:// and names a host."
    try:
        host.encode("idna")
    except UnicodeError:
        return "Not a host's name."
    if parts.username is not None or parts.fragment:
        return "Without user, password and fragment."
    try:
        public = is_public(ip_address(host))
    except ValueError:
        return None
    return None if public or settings.WEBHOOK_ALLOW_PRIVATE else "Not a public address."


def webhook_secret_create(*, owner: User) -> str:
    """A new signing secret, readable only now; the old one ends, and addresses that were gone are tried again."""
    salt = secrets.token_hex(32)
    with transaction.atomic():
        WebhookSecret.objects.update_or_create(
            owner=owner, defaults={"salt": salt, "created_at": timezone.now()}
        )
        WebhookGone.objects.filter(owner=owner).delete()
    return _secret(salt)


def _secret(salt: str) -> str:
    """Derived from SECRET_KEY, so that a copy of the database signs nothing."""
    key = salted_hmac("imagegen.webhooks", salt, algorithm="sha256").digest()
    return f"whsec_{base64.b64encode(key).decode('ascii')}"


def webhook_secret(*, owner_id: int) -> str | None:
    """A user's signing secret, if they made one."""
    row = WebhookSecret.objects.filter(owner_id=owner_id).first()
    return _secret(row.salt) if row else None


def webhook_is_gone(*, owner_id: int, url: str) -> bool:
    """Whether the address answered 410 and its owner has not made a new secret since."""
    return WebhookGone.objects.filter(owner_id=owner_id, url=url).exists()


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
    base = generation_url(generation.id)
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
            "error": error_of(generation),
            "url": base,
            "images": [f"{base}/images/{index}" for index in images],
        },
    }


def webhooks_wake(*, entries: int = 1) -> bool:
    """Tells the webhook worker that there is work; False when Redis is unreachable (the sweep tells it later)."""
    return entries_push(WEBHOOKS_QUEUE, DELIVER_DUE, entries=entries)


def webhooks_restore() -> bool:
    """Wakes the webhook worker where deliveries are due and nobody said so; whether it did."""
    due = WebhookDelivery.objects.filter(status=DeliveryStatus.PENDING, next_attempt_at__lte=Now())
    try:
        return due.exists() and not entries_waiting(WEBHOOKS_QUEUE) and webhooks_wake()
    except (RedisError, OSError):
        return False
