"""RQ entries for the GPU workers: each says "there is work"."""

from typing import Final

from imagegen_project.common.queues import (
    GENERATIONS_QUEUE,
    entries_drop,
    entries_push,
    entries_waiting,
)

# By dotted name: the web process must never import the worker's module.
RUN_NEXT: Final = "generation.worker.run_next"


def worker_wake(*, entries: int = 1) -> bool:
    """Pushes entries for the GPU workers; False when Redis is unreachable (the sweep pushes them later)."""
    return entries_push(GENERATIONS_QUEUE, RUN_NEXT, entries=entries)


def queue_length() -> int:
    """How many entries wait. Raises RedisError."""
    return entries_waiting(GENERATIONS_QUEUE)


def queue_shorten(length: int) -> int:
    """Drops the newest entries beyond so many; returns how many. Raises RedisError."""
    return entries_drop(GENERATIONS_QUEUE, keep=length)
