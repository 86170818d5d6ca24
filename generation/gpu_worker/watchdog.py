"""Ending a process whose pipeline hangs: no thread can be stopped from outside, but a dead process's lease runs out.

The timer is faulthandler's, a thread of C: it also works when whatever hangs keeps Python's lock. It writes every
thread's stack to standard error before it ends the process; the supervisor starts another.
"""

import faulthandler

from django.conf import settings


def watchdog_arm() -> None:
    """Gives the pipeline `WATCHDOG_S` seconds until the next sign of life."""
    if settings.WATCHDOG_S:
        faulthandler.dump_traceback_later(settings.WATCHDOG_S, exit=True)


def watchdog_disarm() -> None:
    """Stops waiting for signs of life: nothing runs."""
    faulthandler.cancel_dump_traceback_later()
