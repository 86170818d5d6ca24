"""The bounded thread pool of everything asynchronous that needs the database."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from channels.db import database_sync_to_async

P = ParamSpec("P")
R = TypeVar("R")

SOCKET_EXECUTOR = ThreadPoolExecutor(max_workers=4, thread_name_prefix="socket-db")


async def run_in_socket_executor(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Runs a blocking call that may use the database; its connection goes back to the pool afterwards."""
    call = database_sync_to_async(function, thread_sensitive=False, executor=SOCKET_EXECUTOR)
    result: R = await call(*args, **kwargs)
    return result
