"""RQ entries for the GPU workers: each says "there is work".

Every class of devices has a queue of its own, beside the one of workers without a class; a worker listens to one.
"""

from typing import Any

from django.conf import settings

from imagegen_project.common.queues import (
    GENERATIONS_QUEUE,
    entries_add,
    entries_drop,
    entries_push,
    entries_waiting,
)


def device_classes() -> tuple[str, ...]:
    """The classes of workers there may be; "" is that of workers without one."""
    return ("", *settings.DEVICE_CLASSES)


def queue_name(device_class: str) -> str:
    """The queue of a class of workers."""
    return f"{GENERATIONS_QUEUE}.{device_class}" if device_class else GENERATIONS_QUEUE


def worker_wake(*, device_class: str = "") -> None:
    """Pushes an entry for the workers of a class, or for each class where any may run it.

    What is lost while Redis is unreachable, the sweep pushes later.
    """
    for name in _woken(device_class):
        entries_push(queue_name(name), settings.RQ_RUN_NEXT)


def worker_wake_with(pipe: Any, *, device_class: str) -> None:
    """The same as a part of what a pipeline of Redis will do. Raises RedisError."""
    for name in _woken(device_class):
        entries_add(pipe, queue_name(name), settings.RQ_RUN_NEXT)


def _woken(device_class: str) -> tuple[str, ...]:
    return (device_class,) if device_class else device_classes()


def workers_wake(*, device_class: str, entries: int) -> None:
    """Pushes entries for the workers of one class."""
    entries_push(queue_name(device_class), settings.RQ_RUN_NEXT, entries=entries)


def queue_length(device_class: str = "") -> int:
    """How many entries wait for the workers of a class. Raises RedisError."""
    return entries_waiting(queue_name(device_class))


def queue_shorten(device_class: str, length: int) -> int:
    """Drops the newest entries beyond so many; returns how many. Raises RedisError."""
    return entries_drop(queue_name(device_class), keep=length)
