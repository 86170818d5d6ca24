"""Lanes: threads of one process that take work until there is none, then wait to be woken or look again."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from django.db import DatabaseError, close_old_connections
from psycopg_pool import PoolTimeout

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
STOP_WAIT_S = 5.0


@dataclass(frozen=True)
class Lane:
    """Work of one kind: `take` does one piece, and says whether there was one; at most `at_once` at a time."""

    name: str
    take: Callable[[], bool]
    at_once: int


class _Running:
    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.stopping = threading.Event()
        self._wakes = threading.Semaphore(0)
        self._threads = [
            threading.Thread(target=self._work, name=f"{lane.name}-{number}", daemon=True)
            for number in range(lane.at_once)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        self._wakes.release()

    def stop(self) -> None:
        self.stopping.set()
        for _ in self._threads:
            self._wakes.release()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(timeout=STOP_WAIT_S)

    def _work(self) -> None:
        while not self.stopping.is_set():
            if not self._take():
                self._wakes.acquire(timeout=LOOK_EVERY_S)

    def _take(self) -> bool:
        close_old_connections()
        try:
            return self.lane.take()
        except (DatabaseError, PoolTimeout) as error:
            logger.warning("database away", extra={"reason": type(error).__name__})
        except Exception:
            logger.exception("work failed", extra={"lane": self.lane.name})
        finally:
            close_old_connections()
        return False


_running: dict[str, _Running] = {}


@contextlib.contextmanager
def lanes_open(*lanes: Lane) -> Iterator[None]:
    """Works in this process as long as the context lasts. What is in hand at its end may go on for five seconds."""
    _running.update({lane.name: _Running(lane) for lane in lanes})
    for running in _running.values():
        running.start()
    try:
        yield
    finally:
        for running in _running.values():
            running.stop()
        for running in _running.values():
            running.join()
        _running.clear()


def lane_wake(name: str) -> bool:
    """Says that there is work; False where this process has no such lane, so that the caller does it himself."""
    running = _running.get(name)
    if running is not None:
        running.wake()
    return running is not None
