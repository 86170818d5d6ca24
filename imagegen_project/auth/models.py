"""Who a Django user is on the Hugging Face Hub."""

from typing import ClassVar

from django.conf import settings
from django.db import models


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
