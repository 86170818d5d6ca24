"""The RQ worker that delivers."""

import logging
from collections.abc import Mapping
from typing import ClassVar

from generation.webhooks.outbox import DELIVER_DUE, webhooks_wake
from imagegen_project.common.queues import WEBHOOKS_QUEUE, queue_get
from imagegen_project.common.rq_worker import AllowlistedWorker

logger = logging.getLogger(__name__)


class WebhookWorker(AllowlistedWorker):
    """Delivers what is in the outbox."""

    ENTRY_POINTS: ClassVar[tuple[str, ...]] = (DELIVER_DUE,)
    FORMER_NAMES: ClassVar[Mapping[str, str]] = {"generation.webhook_delivery.deliver_due": DELIVER_DUE}


def webhook_worker_run() -> None:
    """Runs a webhook worker in this process until it is told to stop."""
    webhooks_wake()  # what became due while no worker lived
    queue = queue_get(WEBHOOKS_QUEUE)
    worker = WebhookWorker([queue], connection=queue.connection, serializer=queue.serializer)
    logger.info("webhook worker started")
    worker.work(logging_level=None)
