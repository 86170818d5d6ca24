"""Two lanes on a CPU: half of the pictures that share steps are drawn in each, by half of the threads.

Threads that work on one operator wait for each other at its end, and for the parts of it that one of them does alone.
Lanes wait for nobody: while the pipeline's thread looks after the pictures of one, the other draws.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ClassVar, TypeVar

import torch

Result = TypeVar("Result")


class Lanes:
    """Both lanes, which share out the threads that whoever makes them has for torch."""

    COUNT: ClassVar = 2

    def __init__(self) -> None:
        threads = torch.get_num_threads()
        both = threading.Barrier(self.COUNT)

        def begin() -> None:
            torch.set_num_threads(threads // self.COUNT)
            torch.get_num_threads()  # a thread's first question would take over what was said last
            both.wait()

        self._pool = ThreadPoolExecutor(self.COUNT, thread_name_prefix="lane")
        for begun in [self._pool.submit(begin) for _ in range(self.COUNT)]:
            begun.result()
        torch.set_num_threads(threads)  # for threads that begin later

    def begin(self, work: Callable[[], Result]) -> "Future[Result]":
        """Begins a piece of work, in a lane that is free."""
        return self._pool.submit(work)

    def close(self) -> None:
        """Ends its threads."""
        self._pool.shutdown()
