"""RQ: entries that say "there is work". PostgreSQL alone knows which."""

import functools
import logging
from typing import Any, Final

import django_rq
from django.conf import settings
from redis.exceptions import RedisError
from rq import Worker

logger = logging.getLogger(__name__)

GENERATIONS_QUEUE: Final = "generations"
DOWNLOADS_QUEUE: Final = "downloads"
WEBHOOKS_QUEUE: Final = "webhooks"


def queue_get(name: str) -> Any:
    """One of RQ's queues, with the connection and the serializer of the settings; pushes at once."""
    return django_rq.get_queue(name, commit_mode="auto")


@functools.cache
def _queue_of(name: str, url: str) -> Any:
    return queue_get(name)


def _queue(name: str) -> Any:
    """As `queue_get`, but kept with its connections: making those for each push costs more than the push."""
    return _queue_of(name, settings.RQ_QUEUES[name]["URL"])


def entries_add(pipe: Any, queue_name: str, function: str, *args: str, entries: int = 1) -> None:
    """Adds entries to what a pipeline of Redis will do; without one (None), pushes them. Raises RedisError."""
    queue = _queue(queue_name)
    # No RQ timeout: it would be raised in the middle of anything; deadlines are the workers' own.
    entry = queue.prepare_data(
        function, args=args, timeout=-1, result_ttl=0, failure_ttl=300, description=function
    )
    queue.enqueue_many([entry] * entries, pipeline=pipe)


def entries_push(queue_name: str, function: str, *args: str, entries: int = 1) -> bool:
    """Pushes entries that call a function by its dotted name; False when Redis is unreachable."""
    try:
        entries_add(None, queue_name, function, *args, entries=entries)
    except (RedisError, OSError) as error:
        logger.warning("worker not woken", extra={"queue": queue_name, "reason": type(error).__name__})
        return False
    return True


def entries_waiting(queue_name: str) -> int:
    """How many entries wait in a queue. Raises RedisError."""
    length: int = _queue(queue_name).count
    return length


def entries_drop(queue_name: str, *, keep: int) -> int:
    """Drops waiting entries but the oldest `keep`, a thousand at most; returns how many. Raises RedisError."""
    queue = _queue(queue_name)
    entries = queue.get_jobs(offset=keep, length=1000)
    for entry in entries:
        entry.delete()
    return len(entries)


def workers_listening(queue_name: str) -> int:
    """How many RQ workers listen to a queue. Raises RedisError."""
    queue = _queue(queue_name)
    return sum(queue.name in worker.queue_names() for worker in Worker.all(connection=queue.connection))
