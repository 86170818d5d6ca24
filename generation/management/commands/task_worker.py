"""`manage.py task_worker`."""

import logging
import threading
from typing import Any

from django.core.management.base import BaseCommand

from generation.allowlist import AllowlistedWorker
from generation.periodic import SWEEP_EVERY_S, periodically
from generation.queueing import DOWNLOADS_QUEUE, queue_get
from generation.sweep import sweep

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    """Runs one task worker."""

    help = (
        "Runs a task worker: background work that needs no GPU and imports no torch. It sweeps too, so that a job "
        "whose worker died ends or returns to the queue even while no GPU worker lives. One a host is enough."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        """Runs until it is told to stop."""
        stopping = threading.Event()
        sweeper = threading.Thread(
            target=periodically,
            args=(sweep,),
            kwargs={"every_s": SWEEP_EVERY_S, "stopping": stopping},
            name="sweep",
            daemon=True,
        )
        sweeper.start()
        logger.info("task worker started")
        queue = queue_get(DOWNLOADS_QUEUE)
        try:
            AllowlistedWorker([queue], connection=queue.connection, serializer=queue.serializer).work(
                logging_level=None
            )
        finally:
            stopping.set()
            sweeper.join(timeout=5)
