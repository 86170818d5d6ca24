"""`manage.py webhook_worker`."""

import logging
from typing import Any

from django.core.management.base import BaseCommand

from generation.webhooks.outbox import webhooks_wake
from generation.webhooks.worker import WebhookWorker
from imagegen_project.common.queues import WEBHOOKS_QUEUE, queue_get

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    """Runs one webhook worker."""

    help = (
        "Runs a webhook worker: it posts what generations' webhooks asked for, signed, and tries again what did not "
        "arrive. It needs no GPU and imports no torch. One is enough; several share the work."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        """Runs until it is told to stop."""
        webhooks_wake()  # what became due while no worker lived
        queue = queue_get(WEBHOOKS_QUEUE)
        worker = WebhookWorker([queue], connection=queue.connection, serializer=queue.serializer)
        logger.info("webhook worker started")
        worker.work(logging_level=None)
