"""What Django's middleware does for requests, for the sockets and event streams that are served outside Django."""

import logging
import time
from collections import Counter
from collections.abc import Iterable
from io import BytesIO
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse
from django.middleware.security import SecurityMiddleware
from uuid_utils.compat import uuid7

from imagegen_project.auth.failures import address_of
from imagegen_project.common.asgi import Application, Message, Receive, Scope, Send
from imagegen_project.common.context import address, base_url, request_id, username
from imagegen_project.common.http import base_url_of
from imagegen_project.common.problems import problem_response
from imagegen_project.common.waiting import REQUEST_ID_KEY
from imagegen_project.server.middleware import REQUEST_ID_PATTERN

logger = logging.getLogger("imagegen.request")


class ConnectionContext:
    """Takes `X-Request-Id` (or makes one), puts it into logs, and writes one line when the connection ends."""

    def __init__(self, application: Application) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection; its path is logged without the query, which could carry a ticket."""
        identifier = scope[REQUEST_ID_KEY] = request_id_of(scope["headers"])
        request_token, user_token = request_id.set(identifier), username.set("")
        opening = as_request(scope)
        base_token, address_token = base_url.set(base_url_of(opening)), address.set(address_of(opening))
        outcome, began = {"status": 0, "code": 0}, time.monotonic()

        async def send_noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                outcome["status"] = message["status"]
            elif message["type"] == "websocket.accept":
                outcome["status"] = 101
            elif message["type"] == "websocket.close":
                outcome["status"] = outcome["status"] or 403  # what the server makes of it
                outcome["code"] = message.get("code") or 1000
            await send(message)

        try:
            await self.application(scope, receive, send_noting)
        finally:
            logger.info(
                "socket" if scope["type"] == "websocket" else "stream",
                extra={
                    "path": scope["path"],
                    **{name: value for name, value in outcome.items() if value},
                    "duration_ms": round((time.monotonic() - began) * 1000, 1),
                },
            )
            request_id.reset(request_token)
            username.reset(user_token)
            base_url.reset(base_token)
            address.reset(address_token)


# Open sockets and event streams by user, in this process.
_OPEN: Final[Counter[Any]] = Counter()
CLOSE_TOO_MANY: Final = 4429


class UserConnections:
    """Bounds the sockets and event streams that one user has open in this process; stands behind authentication.

    Each costs memory for what its reader has not read. One too many is refused before it is accepted: a socket with
    close code 4429 (HTTP 403), a stream with 429.
    """

    def __init__(self, application: Application) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        user = scope["user"].pk  # None of those who are nobody, whom the application refuses
        if user is not None and _OPEN[user] >= settings.CONNECTIONS_PER_USER:
            await _refuse_one_more(scope, receive, send)
            return
        _OPEN[user] += 1
        try:
            await self.application(scope, receive, send)
        finally:
            _OPEN[user] -= 1
            if not _OPEN[user]:
                del _OPEN[user]


async def _refuse_one_more(scope: Scope, receive: Receive, send: Send) -> None:
    logger.info("too many connections of one user", extra={"path": scope["path"]})
    if scope["type"] == "websocket":
        await receive()  # the protocol wants websocket.connect to be read first
        await send({"type": "websocket.close", "code": CLOSE_TOO_MANY})
        return
    detail = f"You have {settings.CONNECTIONS_PER_USER} sockets and streams open (CONNECTIONS_PER_USER)."
    response = problem_response(429, "too_many_connections", detail)
    headers = [(b"content-type", response.headers["Content-Type"].encode()), (b"retry-after", b"5")]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": response.content})


def as_request(scope: Scope) -> ASGIRequest:
    """A connection's opening as the GET that it is."""
    schemes = {"ws": "http", "wss": "https"}
    scheme = scope.get("scheme", "http")
    return ASGIRequest({**scope, "method": "GET", "scheme": schemes.get(scheme, scheme)}, BytesIO())


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """What the client calls its request, or a new name."""
    given = next((value.decode("latin-1") for name, value in headers if name == b"x-request-id"), "")
    return given if REQUEST_ID_PATTERN.fullmatch(given) else uuid7().hex


def answer_before(scope: Scope) -> HttpResponse | None:
    """What Django would answer whatever the view: a refusal of an unknown host, or a redirect to HTTPS."""
    request = ASGIRequest(scope, BytesIO())
    try:
        request.get_host()
    except DisallowedHost:
        return problem_response(400, "bad_request", "This service does not go by that host name.")
    return SecurityMiddleware(lambda _: HttpResponse()).process_request(request)
