"""The RQ worker of a GPU."""

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from django.conf import settings
from rq.worker import WorkerStatus

from generation.gpu_worker.runtime import GpuRuntime
from generation.queue.entries import queue_name
from imagegen_project.common.queues import queue_get
from imagegen_project.common.rq_worker import AllowlistedWorker

logger = logging.getLogger(__name__)


class GpuWorker(AllowlistedWorker):
    """RQ's side: one wake-up per generation. A first SIGTERM drains, a second hands back; neither fails a job."""

    ENTRY_POINTS: ClassVar[tuple[str, ...]] = (settings.RQ_RUN_NEXT,)
    FORMER_NAMES: ClassVar[Mapping[str, str]] = {"generation.worker.run_next": settings.RQ_RUN_NEXT}
    runtime: GpuRuntime

    def entry_run(self, job: Any, queue: Any) -> None:
        """Forgets the entry, which only says that there is work, and draws: RQ's notes of it would delay that."""
        with queue.connection.pipeline() as pipe:
            pipe.lrem(queue.intermediate_queue_key, 1, job.id)
            pipe.delete(job.key)
            self.set_state(WorkerStatus.BUSY, pipe)  # what RQ does on a signal depends on it
            pipe.execute()
        try:
            self.runtime.run_next()
        except Exception:
            logger.exception("entry failed")
        self.set_state(WorkerStatus.IDLE)

    def request_stop(self, signum: int, frame: Any) -> None:
        """First SIGTERM or SIGINT."""
        self.runtime.drain()
        super().request_stop(signum, frame)

    def request_force_stop(self, signum: int, frame: Any) -> None:
        """Every further one: RQ would raise SystemExit here, in the middle of anything."""
        self.runtime.hand_back()


def gpu_worker_run(*, name: str = "") -> None:
    """Runs a GPU worker in this process until it is told to stop."""
    runtime = GpuRuntime(name=name)
    queue = queue_get(queue_name(settings.DEVICE_CLASS))
    # RQ's own name for it is random: one that a killed process left behind would refuse a second birth for 90 s.
    worker = GpuWorker([queue], connection=queue.connection, serializer=queue.serializer)
    worker.runtime = runtime
    runtime.start()
    logger.info("gpu worker started", extra={"worker": runtime.worker.name, "device": runtime.worker.device})
    try:
        worker.work(logging_level=None)
    finally:
        runtime.close()
