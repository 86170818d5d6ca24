"""Signals: where an entry of the audit trail came from is noted beside it."""

from typing import Any

from django.contrib.admin.models import LogEntry
from django.db.models.signals import post_save
from django.dispatch import receiver

from imagegen_project.auth.models import ActionOrigin
from imagegen_project.common.context import address, request_id


@receiver(post_save, sender=LogEntry)
def origin_note(instance: LogEntry, **kwargs: Any) -> None:
    """Notes it."""
    if kwargs["created"]:
        ActionOrigin.objects.create(entry=instance, address=address.get(), request_id=request_id.get())
