"""RQ workers that run nothing but what they were made for."""

import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import uuid4

from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.exceptions import DeserializationError, StopRequested

logger = logging.getLogger(__name__)

# Between two beginnings of RQ's loop, the last again and again.
BEGIN_AGAIN_S = (1.0, 2.0, 5.0, 10.0)

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
        self._asked_to_stop = False

    def request_stop(self, signum: int, frame: Any) -> None:
        """First SIGTERM or SIGINT."""
        self._asked_to_stop = True
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]  # RQ has no types there

    def work(self, burst: bool = False, **options: Any) -> bool:  # type: ignore[override]  # noqa: FBT001, FBT002
        """RQ's loop, begun again until somebody asks for its end.

        It ends by itself where Redis refuses a write or is away while it begins. The process is to outlive that: models
        are loaded in it, and what PostgreSQL wants of it goes on.
        """
        if burst:
            return super().work(burst=True, **options)
        self._install_signal_handlers()  # type: ignore[no-untyped-call]
        beginnings = 0
        while not self._asked_to_stop:
            began = time.monotonic()
            with contextlib.suppress(StopRequested):
                self._work_once(options)
                if time.monotonic() - began > BEGIN_AGAIN_S[-1]:
                    beginnings = 0
                if not self._asked_to_stop:
                    time.sleep(BEGIN_AGAIN_S[min(beginnings, len(BEGIN_AGAIN_S) - 1)])
                beginnings += 1
            # RQ takes the old name for a living worker's while Redis remembers it.
            self.name = uuid4().hex
        return True

    def _work_once(self, options: dict[str, Any]) -> None:
        reason = "ended"
        try:
            super().work(**options)
        except (RedisError, OSError) as error:
            reason = type(error).__name__
        if not self._asked_to_stop:
            logger.warning("no entries from redis", extra={"reason": reason})

    def teardown(self) -> None:
        """RQ's, of which no part may be left out because Redis refused another."""
        try:
            super().teardown()  # type: ignore[no-untyped-call]
        except (RedisError, OSError):
            with contextlib.suppress(RedisError, OSError):
                self.unsubscribe()  # type: ignore[no-untyped-call]

    def execute_job(self, job: Any, queue: Any) -> None:
        """Runs a known entry; drops any other, with a line in the log."""
        if self._allowed(job):
            self.entry_run(job, queue)
            return
        logger.error("entry refused", extra={"rq_job": job.id})
        queue.intermediate_queue.remove(job.id)
        job.delete()

    def entry_run(self, job: Any, queue: Any) -> None:
        """Runs a known entry the way RQ does, which takes notes of it."""
        super().execute_job(job, queue)

    def _allowed(self, job: Any) -> bool:
        try:
            if name := self.FORMER_NAMES.get(job.func_name):
                job.func_name = name
            known = job.func_name in self.ENTRY_POINTS and job.instance is None
        except (DeserializationError, ValueError, TypeError, KeyError):
            return False
        callbacks = ("_success_callback_name", "_failure_callback_name", "_stopped_callback_name")
        return known and not any(getattr(job, name, None) for name in callbacks) and not job.webhooks
