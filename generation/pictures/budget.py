"""How many pixels this process decodes at a time, whoever sent them."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class PixelBudget:
    """A semaphore of pixels, in order of arrival: a large picture is not passed by small ones for ever.

    Holders must ask for no more while they hold some, so that there is always one which can go on.
    """

    def __init__(self, pixels: int) -> None:
        self._free = pixels
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Holds so many of the budget's pixels, at most all of them; waits until they are free."""
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is turn and self._free >= pixels)
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()
