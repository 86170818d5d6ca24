"""`manage.py task_worker`."""

import logging
import threading
from typing import Any, ClassVar

from django.core.management.base import BaseCommand

from generation.upkeep.model_copies import copies_bring
from generation.upkeep.stored_files import housekeeping
from generation.upkeep.sweep import sweep
from imagegen_project.common.periodic import SWEEP_EVERY_S, periodically
from imagegen_project.common.queues import DOWNLOADS_QUEUE, queue_get
from imagegen_project.common.rq_worker import AllowlistedWorker
from loras.cache import cache_repair
from loras.services import PROCESS_LORA
from models_registry.downloads import downloads_stop
from models_registry.services import CHECK_FILES, DOWNLOAD_NEXT

logger = logging.getLogger(__name__)


class TaskWorker(AllowlistedWorker):
    """Downloads and verifies; told to stop, it leaves a download at its next megabyte for whoever comes next."""

    ENTRY_POINTS: ClassVar[tuple[str, ...]] = (DOWNLOAD_NEXT, CHECK_FILES, PROCESS_LORA)

    def request_stop(self, signum: int, frame: Any) -> None:
        """First SIGTERM or SIGINT."""
        downloads_stop()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]  # RQ has no types there

    def request_force_stop(self, signum: int, frame: Any) -> None:
        """Every further one: RQ would raise SystemExit here, in the middle of anything."""


def _tidy() -> None:
    sweep()
    housekeeping()


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
