"""What Django's middleware does for requests, for the sockets and event streams that are served outside Django."""

import logging
import time
from collections.abc import Iterable
from io import BytesIO

from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse
from django.middleware.security import SecurityMiddleware
from uuid_utils.compat import uuid7

from imagegen_project.common.asgi import Application, Message, Receive, Scope, Send
from imagegen_project.common.context import request_id, username
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
