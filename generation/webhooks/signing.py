"""Signing secrets, and addresses that are gone."""

import base64
import secrets

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone
from django.utils.crypto import salted_hmac

from generation.models import WebhookGone, WebhookSecret


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
