"""Who a Django user is on the Hugging Face Hub, and what is known of a local token beside its digest."""

from typing import ClassVar

from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.db import models
from knox.models import AuthToken
from uuid_utils.compat import uuid7

MAX_TOKEN_NAME_CHARACTERS = 100


class HubAccount(models.Model):
    """A Hub account that has used this service.

    `hub_id` is the identity: names on the Hub can be changed, and then taken by another account.
    """

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="hub_account"
    )
    hub_id = models.CharField("Hub id", max_length=64, unique=True)
    name = models.CharField("Hub name", max_length=100)
    last_seen_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["-last_seen_at"]
        verbose_name = "Hub account"

    def __str__(self) -> str:
        return self.name


class ActionOrigin(models.Model):
    """Where a member of staff did something from; what was done is the admin's own log."""

    entry = models.OneToOneField(LogEntry, on_delete=models.CASCADE, primary_key=True, related_name="origin")
    address = models.CharField(max_length=45, blank=True)
    request_id = models.CharField(max_length=64, blank=True)

    def __str__(self) -> str:
        return self.address or "this machine"


class LocalToken(models.Model):
    """What its owner sees of a local token: never the digest, which is knox's key."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    token = models.OneToOneField(AuthToken, on_delete=models.CASCADE, related_name="note")
    name = models.CharField(max_length=MAX_TOKEN_NAME_CHARACTERS, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, help_text="To the minute.")

    def __str__(self) -> str:
        return self.name or str(self.id)
