"""Keeping one download from holding a worker: a least speed, and an end, for whatever the Hub sends.

Bytes are counted as they come from the network, below everything that gathers them into chunks; else a source that
drips would never be looked at.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
from huggingface_hub.utils import get_session, parse_ratelimit_headers  # type: ignore[attr-defined]  # lazily exported

from models_registry.choices import DownloadProblem
from models_registry.errors import DownloadFailedError

# The least speed must hold on average over each stretch of this length.
WINDOW_S = 30.0
# A Hub that asks to be left alone for longer is not waited for: others' downloads would wait as well.
MAX_REST_S: Final = 60.0
# How many bytes gzip makes of one at most.
MOST_UNPACKED: Final = 1032


@dataclass
class Pace:
    """What one question to the Hub may take: bytes per second at least, seconds and bytes at most; 0 is no limit."""

    name: str
    min_bytes_s: float = 0.0
    limit_s: float = 0.0
    limit_bytes: int = 0
    _began: float = field(default_factory=time.monotonic)
    _bytes: int = 0
    _window_began: float = field(default_factory=time.monotonic)
    _window_bytes: int = 0

    def note(self, size: int, *, packed: bool) -> None:
        """Counts bytes that have come, packed ones as what they may become. Raises DownloadFailedError."""
        now = time.monotonic()
        self._bytes += size * (MOST_UNPACKED if packed else 1)
        self._window_bytes += size
        if self.limit_s and now - self._began > self.limit_s:
            self._fail(f"it took longer than {self.limit_s:g} s")
        if self.limit_bytes and self._bytes > self.limit_bytes:
            raise DownloadFailedError(
                DownloadProblem.HUB_ERROR, f"The Hub's answer about {self.name} has no end."
            )
        elapsed = now - self._window_began
        if elapsed < WINDOW_S:
            return
        if self._window_bytes < self.min_bytes_s * elapsed:
            self._fail(f"it came at less than {self.min_bytes_s / 1000:g} kB/s (DOWNLOAD_MIN_KB_S)")
        self._window_began, self._window_bytes = now, 0

    def begin(self) -> None:
        """A new answer begins; the way to it was no transfer, and has time limits of its own."""
        self._window_began, self._window_bytes = time.monotonic(), 0

    def _fail(self, reason: str) -> None:
        raise DownloadFailedError(
            DownloadProblem.TOO_SLOW, f"The download of {self.name} was given up: {reason}."
        )


_pace: ContextVar[Pace | None] = ContextVar("pace", default=None)


@contextmanager
def paced(pace: Pace) -> Iterator[None]:
    """Holds every answer of the Hub to the pace for the length of the block, in this thread alone."""
    _hook_in()
    token = _pace.set(pace)
    try:
        yield
    finally:
        _pace.reset(token)


class _PacedStream(httpx2.SyncByteStream):
    def __init__(self, stream: Any, pace: Pace, *, packed: bool) -> None:
        self._stream = stream
        self._pace = pace
        self._packed = packed

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._stream:
            self._pace.note(len(piece), packed=self._packed)
            yield piece

    def close(self) -> None:
        self._stream.close()


def _hook_in() -> None:
    """Has the library's client, which is one for the whole process, show each answer before its body is read."""
    client = get_session()
    hooks = client.event_hooks
    if _seen not in hooks["response"]:
        client.event_hooks = {**hooks, "response": [*hooks["response"], _seen]}
        client.headers["Accept-Encoding"] = "identity"


def _seen(response: httpx2.Response) -> None:
    pace = _pace.get()
    if pace is None:
        return
    if response.status_code == httpx2.codes.TOO_MANY_REQUESTS and _rest_s(response) > MAX_REST_S:
        raise DownloadFailedError(
            DownloadProblem.RATE_LIMITED,
            f"The Hub answers that there were too many requests (HTTP 429) for {pace.name}; try later.",
        )
    pace.begin()
    response.stream = _PacedStream(response.stream, pace, packed="content-encoding" in response.headers)


def _rest_s(response: httpx2.Response) -> float:
    """How long the library would sleep before it asks again."""
    given = response.headers.get("retry-after", "")
    limit = parse_ratelimit_headers(response.headers)
    return float(max(int(given) if given.isdigit() else 0, limit.reset_in_seconds if limit else 0))
