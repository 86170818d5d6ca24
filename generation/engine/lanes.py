"""Two lanes on a CPU: pictures that share a step are drawn half by half, each half by half of the threads.

Threads that work on one operator wait for each other at its end, and for the parts of it that one of them does alone.
Halves wait for each other once, at the end of a step.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Final, TypeVar

import torch

COUNT: Final = 2

Work = TypeVar("Work")


class Lanes:
    """Both lanes, which share out the threads that whoever makes them has for torch."""

    def __init__(self) -> None:
        threads = torch.get_num_threads()
        both = threading.Barrier(COUNT)

        def begin(_: int) -> None:
            torch.set_num_threads(threads // COUNT)
            torch.get_num_threads()  # a thread's first question would take over what was said last
            both.wait()

        self._pool = ThreadPoolExecutor(COUNT, thread_name_prefix="lane")
        self.run(begin, range(COUNT))
        torch.set_num_threads(threads)  # for threads that begin later

    def run(self, do: Callable[[Work], Any], works: Sequence[Work]) -> list[Any]:
        """Does one piece of work in each lane. Raises what one of them raises, once both have ended."""
        futures = [self._pool.submit(do, work) for work in works]
        wait(futures)
        return [future.result() for future in futures]

    def close(self) -> None:
        """Ends its threads."""
        self._pool.shutdown()
