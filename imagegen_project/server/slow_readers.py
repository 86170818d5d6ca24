"""Sockets and event streams whose reader does not keep up.

One that stops reading would eat the process's memory, event by event. Where more waits for it than a limit allows, the
connection is cut; a close code reaches such a client at best. Other answers are as long as they are: only event streams
grow while they are read.
"""

import logging
from typing import Final

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

EVENTS_LIMIT_BYTES: Final = 1024 * 1024
# The last message of a streaming socket holds up to eight pictures, and so do the last of OpenAI's streams.
PICTURES_LIMIT_BYTES: Final = 64 * 1024 * 1024
PICTURES_PATHS: Final = ("/stream/", "/v1/images/")
TOO_SLOW_CODE: Final = 4008  # the server's library sends none of the registered codes but 1000
# A socket that ends is cut when less than this speed arrives over so many seconds; half of what is promised (50 kB/s).
CLOSE_PATIENCE_S: Final = 10.0
LEAST_BYTES_PER_S: Final = 25_000

logger = logging.getLogger("imagegen.request")


@implementer(IPushProducer)
class Brake:
    """Decides when a client is too far behind; as the connection's producer it stops nothing: events just come."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.limit = PICTURES_LIMIT_BYTES if path.startswith(PICTURES_PATHS) else EVENTS_LIMIT_BYTES

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's name
        """The buffer is full."""

    def resumeProducing(self) -> None:  # noqa: N802
        """The client has caught up."""

    def stopProducing(self) -> None:  # noqa: N802
        """The connection is over."""

    def is_too_much(self, size: int, *, waiting: int) -> bool:
        """Whether a message of so many bytes is more than may wait, behind so many that wait already."""
        behind = waiting + size
        if not waiting or behind <= self.limit:
            return False
        logger.info("slow reader cut off", extra={"path": self.path, "bytes_behind": behind})
        return True
