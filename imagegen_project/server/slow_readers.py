"""Ending sockets and event streams whose reader does not keep up.

The server (daphne) buffers without a bound what a client does not read, so one that stops reading would eat the
process's memory, event by event. Twisted tells a registered producer when its buffer is full and when it has drained;
what is sent in between is counted here, and beyond a limit the connection is cut. A close code reaches such a client at
best. Other answers are as long as they are: only event streams grow while they are read.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final

from daphne.http_protocol import WebRequest
from daphne.ws_protocol import WebSocketProtocol
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

EVENTS_LIMIT_BYTES: Final = 1024 * 1024
# The last message of a streaming socket holds up to eight pictures, and so do the last of OpenAI's streams.
PICTURES_LIMIT_BYTES: Final = 64 * 1024 * 1024
PICTURES_PATHS: Final = ("/stream/", "/v1/images/")
TOO_SLOW: Final = 4008  # the server's library sends none of the registered codes but 1000

logger = logging.getLogger("imagegen.request")


@implementer(IPushProducer)
class Brake:
    """Counts what is sent to a client that is behind."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.limit = PICTURES_LIMIT_BYTES if path.startswith(PICTURES_PATHS) else EVENTS_LIMIT_BYTES
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
        if self.behind <= self.limit:
            return False
        logger.info("slow reader cut off", extra={"path": self.path, "bytes_behind": self.behind})
        return True


_open, _send = WebSocketProtocol.onOpen, WebSocketProtocol.serverSend


def _open_braked(protocol: Any) -> None:
    protocol.brake = Brake(protocol.request.path)
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


_reply = WebRequest.handle_reply


def _reply_braked(request: Any, message: Mapping[str, Any]) -> None:
    if request.finished or request.channel is None:  # the client has gone
        return
    brake: Brake | None = getattr(request, "brake", None)
    if message["type"] == "http.response.start":
        if (b"content-type", b"text/event-stream") in message.get("headers", ()):
            request.brake = Brake(request.path.decode("ascii"))
            request.registerProducer(request.brake, True)  # noqa: FBT003 - Twisted's signature
    elif brake is not None:
        if brake.is_too_much(len(message.get("body", b""))):
            request.channel.transport.abortConnection()
            return
        if not message.get("more_body"):
            request.unregisterProducer()
    _reply(request, message)


def cut_slow_readers() -> None:
    """Changes the server's handling of sockets and event streams; for the web process."""
    WebSocketProtocol.onOpen, WebSocketProtocol.serverSend = _open_braked, _send_braked
    WebRequest.handle_reply = _reply_braked
