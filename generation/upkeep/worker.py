"""The RQ worker that downloads, verifies and tidies."""

import logging
from typing import Any, ClassVar

from generation.upkeep.housekeeping import housekeeping
from generation.upkeep.model_copies import copies_bring
from generation.upkeep.stored_files import pictures_check
from generation.upkeep.sweep import SWEEP_EVERY_S, sweep
from imagegen_project.common.lanes import lanes_open
from imagegen_project.common.periodic import periodic_threads
from imagegen_project.common.queues import DOWNLOADS_QUEUE, queue_get
from imagegen_project.common.rq_worker import AllowlistedWorker
from loras.cache import cache_repair
from loras.services import PROCESS_LORA
from loras.tasks import LANE as LORAS_LANE
from models_registry.downloads import LANE as MODELS_LANE
from models_registry.downloads import downloads_stop
from models_registry.services import CHECK_FILES, DOWNLOAD_NEXT

logger = logging.getLogger(__name__)


class TaskWorker(AllowlistedWorker):
    """Has its lanes download and verify; told to stop, they leave downloads where they are for whoever comes next."""

    ENTRY_POINTS: ClassVar[tuple[str, ...]] = (DOWNLOAD_NEXT, CHECK_FILES, PROCESS_LORA)

    def request_stop(self, signum: int, frame: Any) -> None:
        """First SIGTERM or SIGINT."""
        downloads_stop()
        super().request_stop(signum, frame)

    def request_force_stop(self, signum: int, frame: Any) -> None:
        """Every further one: RQ would raise SystemExit here, in the middle of anything."""


def task_worker_run() -> None:
    """Runs a task worker in this process until it is told to stop, with the sweep and copies of models beside it."""
    cache_repair()
    pictures_check()
    logger.info("task worker started")
    queue = queue_get(DOWNLOADS_QUEUE)
    worker = TaskWorker([queue], connection=queue.connection, serializer=queue.serializer)
    with (
        periodic_threads(("sweep", _tidy, SWEEP_EVERY_S), ("copies", copies_bring, SWEEP_EVERY_S)),
        lanes_open(MODELS_LANE, LORAS_LANE),
    ):
        worker.work(logging_level=None)


def _tidy() -> None:
    sweep()
    housekeeping()
