"""How a view asks the ASGI gate to wait on its behalf, for a generation or for what workers were ordered to do.

A view cannot wait itself: every request inside Django holds a thread. It leaves a `Wait` in the connection's scope and
returns; the gate (`imagegen_project.server.gate`) waits on the feed without a thread or a database connection and then
asks Django again, with a GET of `render_path`, for the answer. A stream, too, is answered outside Django.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from rest_framework.request import Request

from imagegen_project.common.context import request_id

AFTERWARDS_KEY = "imagegen.afterwards"
WAITED_KEY = "imagegen.waited"
REQUEST_ID_KEY = "imagegen.request_id"


@dataclass(frozen=True)
class Wait:
    """Wait until all of these feeds (of generations or worker commands) end, `seconds` at most, then render
    `render_path`, which may have a query, with `headers` on top.

    `cancel_on_disconnect`: they are generations, to be canceled when the client hangs up meanwhile.
    """

    feed_ids: tuple[UUID, ...]
    seconds: float
    render_path: str
    cancel_on_disconnect: bool = False
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Stream:
    """Let this ASGI application answer, once Django is left."""

    application: Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


def leave_to_gate(request: Request, afterwards: Wait | Stream) -> None:
    """Leaves it in the scope; outside ASGI there is no scope, and the view's own answer (202) goes out instead."""
    scope = getattr(request._request, "scope", None)  # noqa: SLF001 - DRF's only way to Django's request
    if scope is not None:
        scope[AFTERWARDS_KEY] = afterwards
        scope[REQUEST_ID_KEY] = request_id.get()


def has_waited(request: Request) -> bool:
    """Whether this request renders the answer after a wait."""
    scope = getattr(request._request, "scope", None)  # noqa: SLF001
    return bool(scope and scope.get(WAITED_KEY))
