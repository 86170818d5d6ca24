"""Leases and heartbeats are times of the database's clock, and that clock may be set.

Forwards, all of them would have run out at once while everybody lives; backwards, those of the dead would last as
long as the clock was set back. So those who take back what ran out watch it beside their own monotonic clock, which
stands still, too, while the whole machine sleeps.
"""

import logging
import time
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db import connection
from django.db.models.functions import Now

from generation.attempts import lease_end
from generation.choices import Status
from generation.models import Generation, Worker

logger = logging.getLogger(__name__)

# Less harms nobody: a lease is renewed several times per second, and lasts for three at least.
TOLERANCE_S: Final = 1.0
# The longest lease that LEASE_S allows, on any host: a time further away was noted before the clock was set back.
LONGEST_LEASE: Final = timedelta(seconds=60)


class DatabaseClock:
    """The database's clock as one process sees it, from look to look."""

    def __init__(self) -> None:
        self._seen: tuple[datetime, float, float] | None = None
        self._trusted_from = float("-inf")

    def is_steady(self) -> bool:
        """Whether what ran out may be taken back: not until all who live have renewed it after a jump of the clock."""
        before = time.monotonic()
        with connection.cursor() as cursor:
            cursor.execute("SELECT statement_timestamp()")
            (now,) = cursor.fetchone()
        after = time.monotonic()
        if self._seen is not None:
            jumped_s = _jump_s(self._seen, (now, before, after))
            if jumped_s:
                self._trusted_from = after + settings.LEASE_S
                logger.warning("database clock jumped", extra={"seconds": round(jumped_s, 1)})
        self._seen = (now, before, after)
        return after >= self._trusted_from


def _jump_s(first: tuple[datetime, float, float], second: tuple[datetime, float, float]) -> float:
    """By how much more (or less) the clock went on between two looks than can have passed; 0 within the tolerance.

    A look is what the clock said, and the monotonic times before and after it was asked.
    """
    passed = (second[0] - first[0]).total_seconds()
    shortest, longest = second[1] - first[2], second[2] - first[1]
    if passed > longest + TOLERANCE_S:
        return passed - longest
    return passed - shortest if passed < shortest - TOLERANCE_S else 0.0


def times_restamp() -> int:
    """Lets what ends impossibly late end as if noted now; who lives renews it soon. Returns how many rows."""
    late = Now() + LONGEST_LEASE
    leases = Generation.objects.filter(status=Status.RUNNING, lease_expires_at__gt=late)
    heartbeats = Worker.objects.filter(heartbeat_at__gt=late)
    return leases.update(lease_expires_at=lease_end()) + heartbeats.update(heartbeat_at=Now())


database_clock = DatabaseClock()
