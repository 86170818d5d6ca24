"""Whether this web process is ending: who is cut off then has not hung up."""

from typing import Final

COME_AGAIN: Final = 4503  # a socket's close code; as of streaming ones, 4000 plus the HTTP status

_ending = False


def shutdown_begin() -> None:
    """Notes that it is."""
    global _ending  # noqa: PLW0603 - one fact about the process
    _ending = True


def is_ending() -> bool:
    """Whether it is."""
    return _ending
