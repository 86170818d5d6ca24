"""RQ workers that run nothing but what they were made for."""

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from rq import SimpleWorker
from rq.exceptions import DeserializationError

logger = logging.getLogger(__name__)

# Small, so that an idle worker does RQ's maintenance now and then (it blocks for this less 15 seconds).
WORKER_TTL_S = 30
MAINTENANCE_EVERY_S = 60


class AllowlistedWorker(SimpleWorker):
    """Refuses every entry but the known entry points.

    RQ imports whatever dotted name an entry carries, so whoever can write to Redis could run any importable callable;
    callbacks and webhooks of an entry are refused for the same reason.
    """

    ENTRY_POINTS: ClassVar[tuple[str, ...]] = ()
    # What entry points were called in the release before: its processes may still push entries, or have left some.
    FORMER_NAMES: ClassVar[Mapping[str, str]] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        options = {"worker_ttl": WORKER_TTL_S, "maintenance_interval": MAINTENANCE_EVERY_S, **kwargs}
        super().__init__(*args, **options)

    def execute_job(self, job: Any, queue: Any) -> None:
        """Runs a known entry; drops any other, with a line in the log."""
        if self._allowed(job):
            super().execute_job(job, queue)
            return
        logger.error("entry refused", extra={"rq_job": job.id})
        queue.intermediate_queue.remove(job.id)
        job.delete()

    def _allowed(self, job: Any) -> bool:
        try:
            if name := self.FORMER_NAMES.get(job.func_name):
                job.func_name = name
            known = job.func_name in self.ENTRY_POINTS and job.instance is None
        except (DeserializationError, ValueError, TypeError, KeyError):
            return False
        callbacks = ("_success_callback_name", "_failure_callback_name", "_stopped_callback_name")
        return known and not any(getattr(job, name, None) for name in callbacks) and not job.webhooks
