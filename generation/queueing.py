"""RQ entries for the GPU workers: each says "there is work"."""

from typing import Final

from imagegen_project.common.queues import GENERATIONS_QUEUE, entries_push, entries_waiting

# By dotted name: the web process must never import the worker's module.
RUN_NEXT: Final = "generation.worker.run_next"


def worker_wake(*, entries: int = 1) -> bool:
    """Pushes entries for the GPU workers; False when Redis is unreachable (the sweep pushes them later)."""
    return entries_push(GENERATIONS_QUEUE, RUN_NEXT, entries=entries)


def queue_length() -> int:
    """How many entries wait. Raises RedisError."""
    return entries_waiting(GENERATIONS_QUEUE)
