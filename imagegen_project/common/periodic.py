"""Doing something again and again in a thread, whatever happens to the database."""

import logging
import threading
from collections.abc import Callable

from django.db import DatabaseError, close_old_connections
from psycopg_pool import PoolTimeout

logger = logging.getLogger(__name__)

SWEEP_EVERY_S = 2.0


def periodically(action: Callable[[], None], *, every_s: float, stopping: threading.Event) -> None:
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
