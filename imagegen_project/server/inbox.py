"""Messages that sockets have begun to send and not ended."""

import time
from typing import Final

# What one message may have, what all unfinished ones together, and in which time one has to come.
MESSAGE_BYTES: Final = 16 * 1024 * 1024
UNFINISHED_BYTES: Final = 64 * 1024 * 1024
MESSAGE_WITHIN_S: Final = 60.0
# Closing codes: 4000 plus the HTTP status of the same mistake.
TOO_SLOW: Final = 4408
TOO_LARGE: Final = 4413
TOO_MANY: Final = 4503

_all_bytes = 0


class Inbox:
    """What one socket has of an unfinished message."""

    def __init__(self) -> None:
        self.size = 0
        self.began = 0.0

    def take(self, size: int) -> int | None:
        """Counts more of it; the code to close the socket with where that is too much."""
        global _all_bytes  # noqa: PLW0603 - one bound for the process
        self.began = self.began or time.monotonic()
        if self.size + size > MESSAGE_BYTES:
            return TOO_LARGE
        if _all_bytes + size > UNFINISHED_BYTES:
            return TOO_MANY
        self.size += size
        _all_bytes += size
        return None

    def overdue(self) -> int | None:
        """The code to close the socket with where the message takes too long."""
        return TOO_SLOW if self.began and time.monotonic() - self.began > MESSAGE_WITHIN_S else None

    def end(self) -> None:
        """The message has come whole, or will not come."""
        global _all_bytes  # noqa: PLW0603 - as above
        _all_bytes -= self.size
        self.size, self.began = 0, 0.0
