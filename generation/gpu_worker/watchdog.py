"""Ending a process whose pipeline hangs: no thread can be stopped from outside, but a dead process's lease runs out.

The timer is faulthandler's, a thread of C: it also works when whatever hangs keeps Python's lock. It writes every
thread's stack to standard error before it ends the process; the supervisor starts another.
"""

import faulthandler
import time

from django.conf import settings

# A thread begins whenever the timer is set anew, which every row's step would do.
_SET_ANEW_S = 0.25


class _Timer:
    """As faulthandler's timer is: one per process."""

    set_at: float | None = None


def watchdog_arm() -> None:
    """Gives the pipeline `WATCHDOG_S` seconds until the next sign of life, or a moment less. For one thread alone."""
    now = time.monotonic()
    if settings.WATCHDOG_S and (_Timer.set_at is None or now - _Timer.set_at >= _SET_ANEW_S):
        faulthandler.dump_traceback_later(settings.WATCHDOG_S, exit=True)
        _Timer.set_at = now


def watchdog_disarm() -> None:
    """Stops waiting for signs of life: nothing runs."""
    faulthandler.cancel_dump_traceback_later()
    _Timer.set_at = None
