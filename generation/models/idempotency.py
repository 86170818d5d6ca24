"""Requests that must not be carried out twice."""

from datetime import timedelta

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models

MAX_IDEMPOTENCY_KEY_CHARACTERS = 255
# How long a key is remembered.
KEEP = timedelta(hours=24)


class IdempotencyKey(models.Model):
    """A creating request that carried an `Idempotency-Key`, and what it was answered."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=MAX_IDEMPOTENCY_KEY_CHARACTERS)
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of the route and the canonical body.")
    generation_id = models.UUIDField(null=True, db_index=True)
    answer = models.JSONField(null=True, encoder=DjangoJSONEncoder)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["owner", "key"], name="idempotency_key_per_owner"),
        ]

    def __str__(self) -> str:
        return self.key
