"""ASGI's words (https://asgi.readthedocs.io), for what stands before Django."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


async def hung_up(receive: Receive) -> None:
    """Returns when the client of a request that was read has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
