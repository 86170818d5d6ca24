"""Server-sent events: a generation's feed over plain HTTP, without a thread, outside Django.

`GET /api/v1/generations/<id>/events`; a stream is resumed behind `Last-Event-ID` (or `?after=`).
"""

import contextlib
import json
import logging
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

from generation.choices import TERMINAL
from generation.errors import GenerationNotFoundError
from generation.feed.following import feed_hub, follow
from generation.selectors import generation_get
from generation.streams.cursor import seq_read
from imagegen_project.auth.errors import challenge
from imagegen_project.auth.websocket import SocketAuthMiddleware
from imagegen_project.common.asgi import Application, Receive, Scope, Send
from imagegen_project.common.errors import DomainError
from imagegen_project.common.event_stream import _encoded, event_bytes, stream_send
from imagegen_project.common.executors import run_in_socket_executor
from imagegen_project.common.ids import UUID_REGEX
from imagegen_project.common.problems import PROBLEM_CONTENT_TYPE, problem_of, problem_response
from imagegen_project.common.waiting import REQUEST_ID_KEY
from imagegen_project.server.connections import ConnectionContext, UserConnections, answer_before
from imagegen_project.server.middleware import ROUTE_KEY

logger = logging.getLogger("imagegen.request")

ROUTE = "api:generation-events"
_PATH = re.compile(rf"/(?:api/)?v1/generations/(?P<generation_id>{UUID_REGEX})/events/?")


def is_event_stream(path: str) -> bool:
    """Whether a path is that of a generation's event stream."""
    return _PATH.fullmatch(path) is not None


class EventStreams:
    """Serves the event streams, and passes everything else on."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.streams = ConnectionContext(_admit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one HTTP request."""
        if not is_event_stream(scope["path"]):
            await self.application(scope, receive, send)
            return
        scope[ROUTE_KEY] = ROUTE
        await self.streams(scope, receive, send)


async def _admit(scope: Scope, receive: Receive, send: Send) -> None:
    """Only under a known host, and over HTTPS where that is wanted: before any credential is looked at."""
    response = answer_before(scope)
    if response is None:
        await _authenticated(scope, receive, send)
    else:
        await _answer(scope, send, response.status_code, response.content, dict(response.headers))


async def _serve(scope: Scope, receive: Receive, send: Send) -> None:
    match = _PATH.fullmatch(scope["path"])
    assert match is not None  # noqa: S101 - EventStreams looked
    generation_id = UUID(match["generation_id"])
    user = scope["user"]
    after = _after(scope)
    error: DomainError | None = scope["auth_error"]
    if scope["method"] != "GET":
        await _refuse(scope, send, 405, "method_not_allowed", "Only GET.", {"Allow": "GET"})
    elif error is not None:
        problem = problem_of(error)
        await _refuse(scope, send, problem["status"], problem["code"], problem["detail"], error.headers)
    elif not user.is_authenticated:
        shown = any(name == b"authorization" for name, _ in scope["headers"])
        code = "invalid_token" if shown else "not_authenticated"
        sentence = "Send a token that is known here, or a fresh ticket."
        await _refuse(scope, send, 401, code, sentence, {"WWW-Authenticate": challenge(presented=shown)})
    elif after is False:
        await _refuse(scope, send, 400, "bad_request", "Last-Event-ID and after are numbers of events.")
    else:
        await _stream(scope, receive, send, generation_id, after)


async def _stream(scope: Scope, receive: Receive, send: Send, generation_id: UUID, after: Any) -> None:
    """The feed, to those who may see it; 204 to a browser that asks again after the last event."""
    try:
        generation = await run_in_socket_executor(
            generation_get, user=scope["user"], generation_id=generation_id
        )
    except GenerationNotFoundError as error:
        await _refuse(scope, send, error.http_status, error.code, error.detail)
        return
    if after and generation.status in TERMINAL and await feed_hub().is_over(generation_id, after):
        await _answer(scope, send, 204, b"", {})
        return
    headers = {"X-Job-Id": str(generation_id)}
    await stream_send(scope, receive, send, _events(generation_id, after), headers=headers)


async def _events(generation_id: UUID, after: int | None) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(follow(generation_id, after=after)) as events:
        async for event in events:
            data = json.dumps(event, separators=(",", ":"))
            yield event_bytes(event["type"], data, seq=event["seq"])


def _after(scope: Scope) -> Any:
    """Behind which event to go on: a number, None for the start, False when it is no such number."""
    given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"last-event-id"]
    if not given:
        given = parse_qs(scope["query_string"].decode("ascii", "replace")).get("after", [])
    if not given:
        return None
    return seq_read(given[0])


async def _refuse(
    scope: Scope, send: Send, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None
) -> None:
    content = problem_response(status, code, detail).content
    fields = {"Content-Type": PROBLEM_CONTENT_TYPE, **(headers or {})}
    await _answer(scope, send, status, content, fields)


async def _answer(scope: Scope, send: Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    fields = {**headers, "X-Request-Id": scope[REQUEST_ID_KEY]}
    await send({"type": "http.response.start", "status": status, "headers": _encoded(fields)})
    await send({"type": "http.response.body", "body": body})


_authenticated = SocketAuthMiddleware(UserConnections(_serve))
