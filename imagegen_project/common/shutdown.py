"""Whether this web process is ending: who is cut off then has not hung up."""

import asyncio
from typing import Final

COME_AGAIN: Final = 4503  # a socket's close code; as of streaming ones, 4000 plus the HTTP status

_ending = False
_waits_over = False
_waiting: set[asyncio.Event] = set()


def shutdown_begin() -> None:
    """Notes that it is."""
    global _ending  # noqa: PLW0603 - one fact about the process
    _ending = True


def is_ending() -> bool:
    """Whether it is."""
    return _ending


def waits_end() -> None:
    """Notes that who still waits has to be answered now."""
    global _waits_over  # noqa: PLW0603 - as above
    _waits_over = True
    for waiting in _waiting:
        waiting.set()


async def waits_over() -> None:
    """Returns when there is no more time to wait for anything."""
    if _waits_over:
        return
    told = asyncio.Event()
    _waiting.add(told)
    try:
        await told.wait()
    finally:
        _waiting.discard(told)
