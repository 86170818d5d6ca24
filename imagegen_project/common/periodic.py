"""Doing something again and again in a thread, whatever happens to the database."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from django.db import DatabaseError, close_old_connections
from psycopg_pool import PoolTimeout

logger = logging.getLogger(__name__)


def periodically(action: Callable[[], object], *, every_s: float, stopping: threading.Event) -> None:
    """Calls an action until `stopping` is set; an unreachable database or a failed tick never ends it."""
    while not stopping.wait(every_s):
        close_old_connections()
        try:
            action()
        except (DatabaseError, PoolTimeout) as error:
            logger.warning("database away", extra={"reason": type(error).__name__})
        except Exception:
            logger.exception("periodic action failed")
        finally:
            close_old_connections()


@contextlib.contextmanager
def periodic_threads(*tasks: tuple[str, Callable[[], object], float]) -> Iterator[None]:
    """Does things again and again while the context lasts: each is a thread's name, an action, and seconds between.

    What is in hand when the context ends may finish within five seconds.
    """
    stopping = threading.Event()
    threads = [
        threading.Thread(
            target=periodically,
            args=(action,),
            kwargs={"every_s": every_s, "stopping": stopping},
            name=name,
            daemon=True,
        )
        for name, action, every_s in tasks
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join(timeout=5)
