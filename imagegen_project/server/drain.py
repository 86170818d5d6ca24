"""Ending a web process without cutting anybody short.

It first takes no new connections, sends away the sockets and event streams, whose clients come back behind the last
event to whichever process is there, and waits for the answers that others still wait for, `WEB_GRACE_S` at most. Jobs
that last longer are no reason to be cut: when three quarters of it are over, who waits for one is told where to ask.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from django.conf import settings

from imagegen_project.common.shutdown import COME_AGAIN, shutdown_begin, waits_end

LOOK_EVERY_S: Final = 0.05
# Of the grace: the part in which jobs may still end.
PATIENCE: Final = 0.75


class Connections(Protocol):
    """What is open in this process."""

    def are_answering(self) -> bool:
        """Whether a request still has to be answered."""

    def send_away(self, code: int) -> None:
        """Closes sockets, with this code, and event streams."""


async def _answered(connections: Connections, *, until: float) -> None:
    """Returns when every request has its answer, or the time is over."""
    # The server tells nobody.
    while connections.are_answering() and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_EVERY_S)


async def drain(connections: Connections, *, cancel_all: Callable[[], Any]) -> None:
    """Lets everything end that can; then cancels what is left."""
    shutdown_begin()
    connections.send_away(COME_AGAIN)
    began = time.monotonic()
    await _answered(connections, until=began + PATIENCE * settings.WEB_GRACE_S)
    waits_end()
    await _answered(connections, until=began + settings.WEB_GRACE_S)
    cancel_all()
