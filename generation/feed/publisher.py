"""The thread that publishes a worker's events, so that neither Redis nor Channels can slow a step down."""

import itertools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from redis.exceptions import RedisError

from generation.feed.messages import EventType
from generation.feed.stream import Telling, events_append, events_notify

logger = logging.getLogger(__name__)

RETRY_PAUSES_S = (0.1, 0.5, 2.0)


class Publisher:
    """Publishes in order, what waits together. Waiting progress is replaced by newer progress; ends are tried again."""

    def __init__(self) -> None:
        self._items: OrderedDict[object, Telling] = OrderedDict()
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def send(self, generation_id: UUID, event_type: EventType, *, attempt: int, **data: Any) -> None:
        """Hands an event over and returns at once."""
        key: object = ("progress", generation_id) if event_type == "progress" else next(self._numbers)
        with self._changed:
            self._items[key] = Telling(generation_id, event_type, attempt, data)
            self._changed.notify()

    def close(self, *, timeout: float = 5.0) -> None:
        """Publishes what waits, then ends the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)

    def _next(self) -> list[Telling]:
        """All that waits, once something does; nothing when the thread is to end."""
        with self._changed:
            while not self._items and not self._closing:
                self._changed.wait()
            items = list(self._items.values())
            self._items.clear()
            return items

    def _run(self) -> None:
        while items := self._next():
            # What takes time to make, such as a preview, is made here, and only for what is really sent.
            made = [replace(each, data=_made(each.data)) for each in items]
            for pause in (*RETRY_PAUSES_S, None):
                made = [each for each in _publish(made) if each.is_final]
                if not made or pause is None:
                    break
                time.sleep(pause)


def _made(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value() if callable(value) else value for name, value in data.items()}


def _publish(tellings: Sequence[Telling]) -> Sequence[Telling]:
    """Appends and notifies; returns what was not appended."""
    try:
        found = events_append(tellings)
    except (RedisError, OSError) as error:
        _unpublished(tellings, error)
        return tellings
    events = [event for event in found if event is not None and not isinstance(event, RedisError)]
    refused = [
        (telling, event)
        for telling, event in zip(tellings, found, strict=True)
        if isinstance(event, RedisError)
    ]
    for telling, reason in refused:
        _unpublished([telling], reason)
    try:
        events_notify(events)
    except (RedisError, OSError) as error:
        logger.warning("followers not told", extra={"reason": type(error).__name__})
    return [telling for telling, _ in refused]


def _unpublished(tellings: Iterable[Telling], error: Exception) -> None:
    # The row is the truth: followers re-read it when their feed is quiet.
    for event_type in sorted({telling.event_type for telling in tellings}):
        logger.warning(
            "event not published", extra={"event_type": event_type, "reason": type(error).__name__}
        )
