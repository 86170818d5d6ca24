"""Ending a process whose pipeline hangs: no thread can be stopped from outside, but a dead process's lease runs out.

The timer is faulthandler's, a thread of C: it also works when whatever hangs keeps Python's lock. It writes every
thread's stack to standard error before it ends the process; the supervisor starts another.
"""

import faulthandler
import time

from django.conf import settings

# A thread begins whenever the timer is set anew, which every row's step would do.
_SET_ANEW_S = 0.25
_set_at: float | None = None


def watchdog_arm() -> None:
    """Gives the pipeline `WATCHDOG_S` seconds until the next sign of life, or a moment less. For one thread alone."""
    global _set_at  # noqa: PLW0603 - as the timer is, one per process
    now = time.monotonic()
    if settings.WATCHDOG_S and (_set_at is None or now - _set_at >= _SET_ANEW_S):
        faulthandler.dump_traceback_later(settings.WATCHDOG_S, exit=True)
        _set_at = now


def watchdog_disarm() -> None:
    """Stops waiting for signs of life: nothing runs."""
    global _set_at  # noqa: PLW0603
    faulthandler.cancel_dump_traceback_later()
    _set_at = None
