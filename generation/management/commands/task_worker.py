"""`manage.py task_worker`."""

import logging
import threading
from typing import Any

from django.core.management.base import BaseCommand

from generation.upkeep.model_copies import copies_bring
from generation.upkeep.worker import TaskWorker, _tidy
from imagegen_project.common.periodic import SWEEP_EVERY_S, periodically
from imagegen_project.common.queues import DOWNLOADS_QUEUE, queue_get
from loras.cache import cache_repair

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    """Runs one task worker."""

    help = (
        "Runs a task worker: it downloads models, needs no GPU and imports no torch. It sweeps too, so that a job "
        "whose worker died ends or returns to the queue even while no GPU worker lives. One a host is enough."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        """Runs until it is told to stop."""
        cache_repair()
        stopping = threading.Event()
        threads = [
            threading.Thread(
                target=periodically,
                args=(action,),
                kwargs={"every_s": SWEEP_EVERY_S, "stopping": stopping},
                name=name,
                daemon=True,
            )
            for name, action in (("sweep", _tidy), ("copies", copies_bring))
        ]
        for thread in threads:
            thread.start()
        logger.info("task worker started")
        queue = queue_get(DOWNLOADS_QUEUE)
        try:
            TaskWorker([queue], connection=queue.connection, serializer=queue.serializer).work(
                logging_level=None
            )
        finally:
            stopping.set()
            for thread in threads:
                thread.join(timeout=5)
