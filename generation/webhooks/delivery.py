"""Sending what is in the outbox: claimed row by row, tried again with growing pauses, every attempt on record."""

import json
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import close_old_connections, connection, transaction
from django.db.models import Exists, F, OuterRef
from django.db.models.functions import Now
from django.utils import timezone
from standardwebhooks.webhooks import Webhook

from generation.choices import DeliveryStatus
from generation.models import WebhookDelivery, WebhookGone
from generation.webhooks.signing import webhook_is_gone, webhook_secret
from imagegen_project import __version__
from imagegen_project.common.outgoing import UnreachableError, outgoing_request
from imagegen_project.common.signed_addresses import address_sign

logger = logging.getLogger(__name__)

THREADS = 4
# Longer than an attempt can take: its own limit, and what the system's resolver adds to it.
CLAIM_MARGIN_S = 60
FIRST_PAUSE_S, PAUSE_FACTOR, MAX_PAUSE_S = 5, 4, 6 * 3600
HTTP_GONE = 410
CLAIM_LOCK = 0x776562686F6F6B73  # "webhooks"

# Spreads out what failed together.
jitter: Callable[[float, float], float] = random.uniform


def deliver_due() -> None:
    """The entry point of RQ entries: delivers until nothing is due, a few at a time."""
    with ThreadPoolExecutor(THREADS, thread_name_prefix="webhooks") as pool:
        for done in [pool.submit(_drain) for _ in range(THREADS)]:
            done.result()


def _drain() -> None:
    close_old_connections()
    try:
        while delivery := delivery_claim():
            deliver(delivery)
    finally:
        close_old_connections()


def delivery_claim() -> WebhookDelivery | None:
    """Takes the delivery that has been due for longest, or None; of each owner one at a time.

    So somebody whose server never answers keeps nobody else's waiting, and messages keep their order.
    """
    pending = WebhookDelivery.objects.filter(status=DeliveryStatus.PENDING)
    in_flight = pending.filter(owner=OuterRef("owner"), claimed_until__gt=Now())
    with transaction.atomic():
        with connection.cursor() as cursor:
            # One claim after the other: two at once would not see each other's, and take two of one owner.
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [CLAIM_LOCK])
        due = pending.filter(~Exists(in_flight), next_attempt_at__lte=Now())
        delivery = due.order_by("next_attempt_at", "id").first()
        if delivery is None:
            return None
        until = Now() + timedelta(seconds=settings.WEBHOOK_TIMEOUT_S + CLAIM_MARGIN_S)
        WebhookDelivery.objects.filter(pk=delivery.pk).update(
            attempts=F("attempts") + 1, claimed_until=until, next_attempt_at=until
        )
    delivery.attempts += 1
    return delivery


def deliver(delivery: WebhookDelivery) -> bool:
    """One attempt; whether the message arrived."""
    if webhook_is_gone(owner_id=delivery.owner_id, url=delivery.url):
        _finish(delivery, DeliveryStatus.DISABLED, {"error": "the address answered 410 before"})
        return False
    began = time.monotonic()
    entry: dict[str, Any] = {"at": timezone.now().isoformat(timespec="milliseconds")}
    status = None
    try:
        status = _send(delivery)
        entry["status"] = status
    except UnreachableError as error:
        entry["error"] = str(error)
    except Exception as error:
        # Counted like any other: what is never recorded would be tried for ever.
        logger.exception("webhook broken", extra={"delivery": str(delivery.pk)})
        entry["error"] = type(error).__name__
    entry["ms"] = round((time.monotonic() - began) * 1000)
    return _record(delivery, status, entry)


def _send(delivery: WebhookDelivery) -> int:
    """Signs and posts; the answer's status. Raises UnreachableError."""
    secret = webhook_secret(owner_id=delivery.owner_id)
    if secret is None:
        raise UnreachableError("no signing secret")
    body = json.dumps(_payload(delivery), separators=(",", ":"), sort_keys=True)
    message_id, now = f"msg_{delivery.pk.hex}", timezone.now()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"imagegen/{__version__}",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(msg_id=message_id, timestamp=now, data=body),
    }
    return outgoing_request(
        "POST",
        delivery.url,
        body=body.encode(),
        headers=headers,
        timeout_s=settings.WEBHOOK_TIMEOUT_S,
        allow_private=settings.WEBHOOK_ALLOW_PRIVATE,
    ).status


def _payload(delivery: WebhookDelivery) -> dict[str, Any]:
    """The message with whole addresses, those of pictures signed now: they open when it arrives, however late."""
    payload: dict[str, Any] = delivery.payload
    base = delivery.generation.base_url if delivery.generation else ""
    base = settings.PUBLIC_URL or base
    data = payload["data"]
    images = [address_sign(path, base=base) for path in data["images"]]
    return {**payload, "data": {**data, "url": base + data["url"], "images": images}}


def _record(delivery: WebhookDelivery, status: int | None, entry: dict[str, Any]) -> bool:
    if status is not None and 200 <= status < 300:
        return _finish(delivery, DeliveryStatus.DELIVERED, entry)
    if status == HTTP_GONE:
        WebhookGone.objects.get_or_create(owner_id=delivery.owner_id, url=delivery.url)
        _finish(delivery, DeliveryStatus.DISABLED, entry)
    elif delivery.attempts >= settings.WEBHOOK_MAX_ATTEMPTS:
        _finish(delivery, DeliveryStatus.FAILED, entry)
    else:
        _update(
            delivery,
            next_attempt_at=Now() + pause(delivery.attempts),
            claimed_until=None,
            log=[*delivery.log, entry],
        )
    logger.info("webhook not delivered", extra={"delivery": str(delivery.pk), **entry})
    return False


def pause(attempts: int) -> timedelta:
    """How long to wait after so many attempts: 5 s, 20 s, 80 s … 6 h, each half as much more or less by chance."""
    seconds = min(FIRST_PAUSE_S * PAUSE_FACTOR ** (attempts - 1), MAX_PAUSE_S)
    return timedelta(seconds=seconds * jitter(0.5, 1.5))


def _finish(delivery: WebhookDelivery, status: DeliveryStatus, entry: dict[str, Any]) -> bool:
    return _update(delivery, status=status, finished_at=Now(), claimed_until=None, log=[*delivery.log, entry])


def _update(delivery: WebhookDelivery, **values: Any) -> bool:
    """Writes an attempt's result, unless a later attempt has begun; whether it was written."""
    mine = WebhookDelivery.objects.filter(
        pk=delivery.pk, status=DeliveryStatus.PENDING, attempts=delivery.attempts
    )
    return mine.update(**values) == 1
