"""RQ: entries that say "there is work". PostgreSQL alone knows which."""

import logging
from typing import Any

import django_rq
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

GENERATIONS_QUEUE = "generations"
DOWNLOADS_QUEUE = "downloads"
# By dotted name: the web process must never import the worker's module.
RUN_NEXT = "generation.worker.run_next"


def queue_get(name: str) -> Any:
    """One of RQ's queues, with the connection and the serializer of the settings; pushes at once."""
    return django_rq.get_queue(name, commit_mode="auto")


def worker_wake(*, entries: int = 1) -> bool:
    """Pushes entries for the GPU workers; False when Redis is unreachable (the sweep pushes them later)."""
    try:
        queue = queue_get(GENERATIONS_QUEUE)
        for _ in range(entries):
            # No RQ timeout: it would be raised in the middle of anything; deadlines are the worker's own.
            queue.enqueue_call(
                RUN_NEXT, timeout=-1, result_ttl=0, failure_ttl=300, description="run the next"
            )
    except (RedisError, OSError) as error:
        logger.warning("worker not woken", extra={"reason": type(error).__name__})
        return False
    return True


def queue_length() -> int:
    """How many entries wait. Raises RedisError."""
    length: int = queue_get(GENERATIONS_QUEUE).count
    return length
