"""Webhooks: signing secrets, the outbox, and addresses that are gone."""

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models import Q
from uuid_utils.compat import uuid7

from generation.choices import DeliveryStatus, WebhookEvent

MAX_WEBHOOK_URL_CHARACTERS = 1000


class WebhookSecret(models.Model):
    """What a user's signing secret is derived from, together with SECRET_KEY; the secret itself is not kept."""

    owner = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, primary_key=True, related_name="+"
    )
    salt = models.CharField(max_length=64)
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"of user {self.owner_id}"


class WebhookGone(models.Model):
    """An address that answered 410: nothing is sent there until its owner makes a new signing secret."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    url = models.CharField(max_length=MAX_WEBHOOK_URL_CHARACTERS)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = "webhook address that is gone"
        verbose_name_plural = "webhook addresses that are gone"
        constraints = [models.UniqueConstraint(fields=["owner", "url"], name="webhook_gone_once")]

    def __str__(self) -> str:
        return self.url


class WebhookDelivery(models.Model):
    """The outbox: one message, written in the transaction that moved its generation.

    pending --2xx--> delivered; --410--> disabled; --too many attempts--> failed; anything else stays pending and is
    tried again. Every result names the attempt it belongs to, as a generation's do.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    generation = models.ForeignKey(
        "generation.Generation", null=True, on_delete=models.SET_NULL, related_name="deliveries"
    )
    url = models.CharField(max_length=MAX_WEBHOOK_URL_CHARACTERS)
    event = models.CharField(max_length=16, choices=WebhookEvent.choices)
    payload = models.JSONField(encoder=DjangoJSONEncoder)
    status = models.CharField(max_length=16, choices=DeliveryStatus.choices, default=DeliveryStatus.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    next_attempt_at = models.DateTimeField()
    claimed_until = models.DateTimeField(
        null=True, blank=True, help_text="While somebody delivers it; nobody else of its owner's meanwhile."
    )
    log = models.JSONField(
        default=list, help_text="Of each attempt: when, the answer's status or what went wrong, milliseconds."
    )
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "webhook deliveries"
        indexes = [
            models.Index(
                fields=["next_attempt_at"], condition=Q(status=DeliveryStatus.PENDING), name="delivery_due"
            ),
            models.Index(
                fields=["owner", "claimed_until"],
                condition=Q(status=DeliveryStatus.PENDING),
                name="delivery_in_flight",
            ),
            models.Index(fields=["finished_at"], name="delivery_finished"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(status=DeliveryStatus.PENDING, finished_at__isnull=True)
                | (~Q(status=DeliveryStatus.PENDING) & Q(finished_at__isnull=False)),
                name="delivery_finished_unless_pending",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.event} to {self.url}"
