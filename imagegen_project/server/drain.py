"""Ending a web process without cutting anybody short.

The server (daphne) would drop every connection at once. Here it first takes no new ones, sends away the sockets and
event streams, whose clients come back behind the last event to whichever process is there, and waits for the answers
that others still wait for, `WEB_GRACE_S` at most. Jobs that last longer are no reason to be cut: when three quarters of
it are over, who waits for one is told where to ask.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from daphne.http_protocol import WebRequest
from daphne.server import Server
from daphne.ws_protocol import WebSocketProtocol
from django.conf import settings
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from imagegen_project.common.shutdown import COME_AGAIN, shutdown_begin, waits_end

LOOK_EVERY_S: Final = 0.05
# Of the grace: the part in which jobs may still end.
PATIENCE: Final = 0.75


def _answering(server: Any) -> bool:
    """Whether a request still has to be answered."""
    requests = (protocol for protocol in server.connections if isinstance(protocol, WebRequest))
    return any(not request.finished and request.channel is not None for request in requests)


async def _answered(server: Any, *, until: float) -> None:
    """Returns when every request has its answer, or the time is over."""
    while _answering(server) and time.monotonic() < until:  # noqa: ASYNC110 - the server tells nobody
        await asyncio.sleep(LOOK_EVERY_S)


async def _drain(server: Any, port: Any, is_event_stream: Callable[[str], bool]) -> None:
    shutdown_begin()
    port.stopListening()
    for protocol in list(server.connections):
        if isinstance(protocol, WebSocketProtocol):
            if protocol.state == protocol.STATE_OPEN:
                protocol.sendClose(code=COME_AGAIN)
        elif is_event_stream(protocol.path.decode("ascii", "replace")) and protocol.application_queue:
            protocol.application_queue.put_nowait({"type": "http.disconnect"})
    began = time.monotonic()
    await _answered(server, until=began + PATIENCE * settings.WEB_GRACE_S)
    waits_end()
    await _answered(server, until=began + settings.WEB_GRACE_S)
    _cancel_all(server)


_listening, _cancel_all = Server.listen_success, Server.kill_all_applications


def drain_at_shutdown(*, is_event_stream: Callable[[str], bool]) -> None:
    """Changes how the server ends; for the web process. `is_event_stream(path)`: whether it has no end of its own."""

    def listening_until_told(server: Any, port: Any) -> None:
        _listening(server, port)

        def drain() -> "Deferred[None]":
            return Deferred.fromFuture(asyncio.ensure_future(_drain(server, port, is_event_stream)))

        core: Any = reactor
        core.addSystemEventTrigger("before", "shutdown", drain)

    Server.listen_success = listening_until_told
    Server.kill_all_applications = lambda server: None  # at the end of `_drain`, not as it begins
