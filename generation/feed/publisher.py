"""The thread that publishes a worker's events, so that neither Redis nor Channels can slow a step down."""

import asyncio
import itertools
import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from redis.exceptions import RedisError

from generation.feed.messages import TERMINAL_EVENTS, EventType
from generation.feed.stream import event_append, event_notify

logger = logging.getLogger(__name__)

RETRY_PAUSES_S = (0.1, 0.5, 2.0)


@dataclass(frozen=True)
class _Item:
    generation_id: UUID
    event_type: EventType
    attempt: int
    data: dict[str, Any] = field(default_factory=dict)


class Publisher:
    """Publishes in order. Progress that waits is replaced by newer progress; a terminal event is tried again."""

    def __init__(self) -> None:
        self._items: OrderedDict[object, _Item] = OrderedDict()
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def send(self, generation_id: UUID, event_type: EventType, *, attempt: int, **data: Any) -> None:
        """Hands an event over and returns at once."""
        key: object = ("progress", generation_id) if event_type == "progress" else next(self._numbers)
        with self._changed:
            self._items[key] = _Item(generation_id, event_type, attempt, data)
            self._changed.notify()

    def close(self, *, timeout: float = 5.0) -> None:
        """Publishes what waits, then ends the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)

    def _next(self) -> _Item | None:
        with self._changed:
            while not self._items:
                if self._closing:
                    return None
                self._changed.wait()
            return self._items.popitem(last=False)[1]

    def _run(self) -> None:
        # One event loop for the thread's life: the channel layer keeps a connection a loop.
        with asyncio.Runner() as runner:
            while item := self._next():
                self._publish(item, runner)

    def _publish(self, item: _Item, runner: asyncio.Runner) -> None:
        # What takes time to make, such as a preview, is made here, and only for what is really sent.
        data = {name: value() if callable(value) else value for name, value in item.data.items()}
        pauses = RETRY_PAUSES_S if item.event_type in TERMINAL_EVENTS else ()
        for pause in (*pauses, None):
            try:
                event = event_append(item.generation_id, item.event_type, attempt=item.attempt, **data)
                if event is not None:
                    runner.run(event_notify(event))
            except (RedisError, OSError) as error:
                if pause is None:
                    # The row is the truth: followers re-read it when their feed is quiet.
                    logger.warning(
                        "event not published",
                        extra={"event_type": item.event_type, "reason": type(error).__name__},
                    )
                    return
                time.sleep(pause)
            else:
                return
