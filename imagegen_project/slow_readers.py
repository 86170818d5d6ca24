"""Ending sockets whose reader does not keep up.

The server (daphne) buffers without a bound what a client does not read, so one that stops reading would eat the
process's memory, event by event. Twisted tells a registered producer when its buffer is full and when it has drained;
what is sent in between is counted here, and beyond a limit the connection is cut. A close code reaches such a client at
best.
"""

from typing import Any, Final

from daphne.ws_protocol import WebSocketProtocol
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

EVENTS_LIMIT_BYTES: Final = 1024 * 1024
# The last message of a streaming socket holds up to eight pictures.
PICTURES_LIMIT_BYTES: Final = 64 * 1024 * 1024
TOO_SLOW: Final = 4008  # the server's library sends none of the registered codes but 1000


@implementer(IPushProducer)
class Brake:
    """Counts what is sent to a client that is behind."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.behind: int | None = None

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's name
        """The buffer is full; said again at every write until it has drained."""
        self.behind = self.behind or 0

    def resumeProducing(self) -> None:  # noqa: N802
        """The client has caught up."""
        self.behind = None

    def stopProducing(self) -> None:  # noqa: N802
        """The connection is over."""

    def is_too_much(self, size: int) -> bool:
        """Whether a message of so many bytes is more than may wait."""
        if self.behind is None:
            return False
        self.behind += size
        return self.behind > self.limit


_open, _send = WebSocketProtocol.onOpen, WebSocketProtocol.serverSend


def _open_braked(protocol: Any) -> None:
    streaming = protocol.request.path.startswith("/stream/")
    protocol.brake = Brake(PICTURES_LIMIT_BYTES if streaming else EVENTS_LIMIT_BYTES)
    protocol.transport.unregisterProducer()  # HTTP's, from before the upgrade
    protocol.transport.registerProducer(protocol.brake, True)  # noqa: FBT003 - Twisted's signature
    _open(protocol)


def _send_braked(protocol: Any, content: Any, *binary: bool) -> None:
    brake = getattr(protocol, "brake", None)
    if brake is not None and brake.is_too_much(len(content)):
        protocol.sendClose(code=TOO_SLOW)
        protocol.dropConnection(abort=True)
        return
    _send(protocol, content, *binary)


def cut_slow_readers() -> None:
    """Changes the server's handling of sockets; for the web process."""
    WebSocketProtocol.onOpen, WebSocketProtocol.serverSend = _open_braked, _send_braked
