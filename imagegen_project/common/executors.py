"""The bounded thread pool of everything asynchronous that needs the database."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

from django.db import connections

P = ParamSpec("P")
R = TypeVar("R")

SOCKET_EXECUTOR = ThreadPoolExecutor(max_workers=4, thread_name_prefix="socket-db")


def _call(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    try:
        return function(*args, **kwargs)
    finally:
        connections.close_all()  # gives the connection back to the pool


async def run_in_socket_executor(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Runs a blocking call that may use the database, in one of a few threads."""
    loop = asyncio.get_running_loop()
    call = partial(_call, function, *args, **kwargs)
    # The thread's log lines belong to the same request, job and user.
    return await loop.run_in_executor(SOCKET_EXECUTOR, copy_context().run, call)
