"""What may take its time: the books' old entries, and files that disagree with rows."""

import logging
from datetime import timedelta

from django.core.cache import cache
from django.utils import timezone

from generation.models import IdempotencyKey, WebhookDelivery, WorkerCommand
from generation.models.idempotency import KEEP
from generation.queue.limits import work_forget
from generation.upkeep.stored_files import storage_reconcile
from imagegen_project.common.storage import STORAGE_ERRORS

logger = logging.getLogger(__name__)

# What a crash leaves behind belongs to recent generations; older days are for the command.
RECENT = timedelta(days=3)
KEEP_DELIVERIES = timedelta(days=30)
KEEP_ORDERS = timedelta(days=1)
HOUSEKEEPING_EVERY_S = 600


def housekeeping() -> bool:
    """What may take its time, once in ten minutes over all processes; whether this call did it.

    Not part of the sweep: that also runs in the thread that renews leases.
    """
    if not cache.add("housekeeping", 1, timeout=HOUSEKEEPING_EVERY_S):
        return False
    work_forget()
    keys_forget()
    WebhookDelivery.objects.filter(finished_at__lt=timezone.now() - KEEP_DELIVERIES).delete()
    WorkerCommand.objects.filter(finished_at__lt=timezone.now() - KEEP_ORDERS).delete()
    try:
        storage_reconcile(since=timezone.now() - RECENT)
    except STORAGE_ERRORS as error:
        logger.warning("files and rows not compared", extra={"reason": type(error).__name__})
    return True


def keys_forget() -> int:
    """Drops keys that are past their time; returns how many."""
    return IdempotencyKey.objects.filter(created_at__lte=timezone.now() - KEEP).delete()[0]
