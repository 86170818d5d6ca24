"""What stands before Django: caps bodies, bounds how many requests are inside at once, and waits outside it."""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias
from uuid import UUID

from django.conf import settings

from imagegen_project import __version__
from imagegen_project.auth.failures import address_of
from imagegen_project.auth.websocket import origin_is_allowed
from imagegen_project.common.asgi import Application, Message, Receive, Scope, Send, hung_up
from imagegen_project.common.context import address, request_id
from imagegen_project.common.executors import run_in_socket_executor
from imagegen_project.common.problems import problem_response
from imagegen_project.common.shutdown import is_ending, waits_over
from imagegen_project.common.waiting import AFTERWARDS_KEY, REQUEST_ID_KEY, WAITED_KEY, Stream, Wait
from imagegen_project.server.bodies import UPLOAD_PATHS, Head, Refusal, body_limit, in_pieces, too_large
from imagegen_project.server.connections import as_request, request_id_of
from imagegen_project.server.middleware import ROUTE_KEY

logger = logging.getLogger("imagegen.request")

# Under which the ASGI scope carries why the server took no more of a request.
REFUSAL_KEY: Final = "imagegen.refusal"
LIVENESS_PATH: Final = re.compile(r"/health/?")
LIFE: Final = json.dumps({"status": "ok", "version": __version__}).encode()
# Larger bodies than this are inside the application only a few at once.
LARGE_BYTES: Final = 1024 * 1024
LARGE_AT_ONCE: Final = 3
FOREIGN: Final = Refusal(
    403, "foreign_origin", "A page of another site may not do this; see CSRF_TRUSTED_ORIGINS."
)

ErrorShape: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]


class WaitForEnd(Protocol):
    """Returns when all these feeds have ended, or after so many seconds."""

    def __call__(self, feed_ids: Sequence[UUID], *, seconds: float) -> Awaitable[bool]:
        """Whether they ended."""


class BodyTooLargeError(Exception):
    """A body without a declared length grew over the cap."""


class RequestGate:
    """Stands before Django: caps bodies, bounds how many requests are inside at once, and waits outside it.

    Every request inside Django's ASGI handler holds a thread, a waiting one too. So a view that has to wait leaves a
    `Wait` in the scope and returns; the gate drops that answer, waits on the feeds as a coroutine, and asks Django
    again for the answer to give.

    `wait_for_end(feed_ids, seconds=…)` returns when all these feeds have ended, `abandon(ids=…)` cancels generations
    that nobody waits for any more, and `error_shape(path)` gives the wording of a refusal there.
    """

    def __init__(
        self,
        application: Application,
        *,
        wait_for_end: WaitForEnd,
        abandon: Callable[..., Any],
        error_shape: Callable[[str], ErrorShape | None],
    ) -> None:
        self.application = application
        self.wait_for_end = wait_for_end
        self.abandon = abandon
        self.error_shape = error_shape
        self.places = asyncio.Semaphore(settings.WEB_CONCURRENCY)
        self.large = asyncio.Semaphore(LARGE_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one HTTP request."""
        head = request_head(scope)
        limit = body_limit(head.path, head.header(b"content-type"))
        refusal = scope.get(REFUSAL_KEY) or refused_by_origin(head)
        if refusal is None and (head.declared or 0) > limit:
            refusal = too_large(head.path, limit)
        if refusal is not None:
            await self._refuse(scope, send, refusal)
        elif LIVENESS_PATH.fullmatch(head.path):
            await _tell_life(scope, send)
        else:
            await self._pass(scope, receive, send, head, limit)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, head: Head, limit: int) -> None:
        started = False

        async def send_unless_waiting(message: Message) -> None:
            nonlocal started
            if AFTERWARDS_KEY not in scope:
                started = True
                await send(message)

        try:
            async with self.large if is_large(head) else contextlib.nullcontext(), self.places:
                await self.application(scope, _capped(in_pieces(receive), limit), send_unless_waiting)
        except BodyTooLargeError:
            if not started:
                await self._refuse(scope, send, too_large(scope["path"], limit))
            return
        afterwards: Wait | Stream | None = scope.pop(AFTERWARDS_KEY, None)
        if isinstance(afterwards, Stream):
            await afterwards.application(scope, receive, send)
        elif afterwards is not None:
            await self._carry_out(afterwards, scope, receive, send)

    async def _carry_out(self, wait: Wait, scope: Scope, receive: Receive, send: Send) -> None:
        if await self._waited(wait, receive):
            async with self.places:
                await self.application(_render_scope(scope, wait), _empty_body(), _with_headers(send, wait))
        elif wait.cancel_on_disconnect and not is_ending():
            await run_in_socket_executor(self.abandon, ids=wait.feed_ids)

    async def _waited(self, wait: Wait, receive: Receive) -> bool:
        """Waits for the end, the limit or the process' last moments; False when the client hung up first."""
        end = asyncio.ensure_future(self.wait_for_end(wait.feed_ids, seconds=wait.seconds))
        over = asyncio.create_task(waits_over())
        gone = asyncio.create_task(hung_up(receive))
        await asyncio.wait((end, over, gone), return_when=asyncio.FIRST_COMPLETED)
        for task in (end, over, gone):
            task.cancel()
        # A wait that broke, for instance because the database went away, ends here too: Django says so when asked.
        await asyncio.gather(end, over, gone, return_exceptions=True)
        return not (end.cancelled() and over.cancelled())

    async def _refuse(self, scope: Scope, send: Send, refusal: Refusal) -> None:
        """Answers in the wording of the path, and writes the request's line into the log."""
        identifier = request_id_of(scope["headers"])
        token, address_token = request_id.set(identifier), address.set(address_of(as_request(scope)))
        try:
            response = problem_response(refusal.status, refusal.code, refusal.detail)
            body, content_type = response.content, response.headers["Content-Type"]
            if shape := self.error_shape(scope["path"]):
                body, content_type = json.dumps(shape(json.loads(body))).encode(), "application/json"
            told = {"Content-Type": content_type, "Connection": "close", "X-Request-Id": identifier}
            logger.info(
                "request",
                extra={
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": refusal.status,
                    "code": refusal.code,
                },
            )
            await _answer(scope, send, refusal.status, body, told | dict(refusal.headers))
        finally:
            request_id.reset(token)
            address.reset(address_token)


def request_head(scope: Scope) -> Head:
    """A request as it is known before its body."""
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    declared = int(lengths[0]) if lengths and lengths[0].isdigit() else 0
    return Head(scope["method"], scope["path"], scope["headers"], scope.get("client"), declared)


def is_large(head: Head) -> bool:
    """Whether the application may hold a large body in memory, several times over; uploads go through files."""
    may_be = (head.declared or 0) > LARGE_BYTES or head.header(b"transfer-encoding") != ""
    return may_be and not UPLOAD_PATHS.fullmatch(head.path)


def refused_by_origin(head: Head) -> Refusal | None:
    """Why another site's page may not do this with the credentials that a browser keeps for HTTP Basic.

    For a session Django's own check does that; a token in a Bearer header is sent by no browser of itself.
    """
    basic = head.header(b"authorization").strip().lower().startswith("basic")
    if not basic or head.method in ("GET", "HEAD", "OPTIONS"):
        return None
    origin = head.header(b"origin")
    if origin:
        is_foreign = not origin_is_allowed(origin, head.header(b"host"))
    else:
        is_foreign = head.header(b"sec-fetch-site").lower() in ("cross-site", "same-site")
    return FOREIGN if is_foreign else None


async def _tell_life(scope: Scope, send: Send) -> None:
    """`/health`: that this process lives. Needs no thread, so it is said even while requests wait for a database."""
    scope[ROUTE_KEY] = "health"
    if scope["method"] in ("GET", "HEAD"):
        told = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        await _answer(scope, send, 200, LIFE, told)
    else:
        response = problem_response(405, "method_not_allowed", "Only GET.")
        told = {"Content-Type": response.headers["Content-Type"], "Allow": "GET, HEAD"}
        await _answer(scope, send, 405, response.content, told)


async def _answer(scope: Scope, send: Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    fields = {**headers, "Content-Length": str(len(body)), "X-Content-Type-Options": "nosniff"}
    encoded = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _capped(receive: Receive, limit: int) -> Receive:
    """Counts a body as it comes. The returned callable raises BodyTooLargeError over the cap."""
    received = 0

    async def receive_counting() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise BodyTooLargeError
        return message

    return receive_counting


_REPLACED_HEADERS = (b"content-length", b"content-type", b"transfer-encoding", b"expect", b"x-request-id")


def _render_scope(scope: Scope, wait: Wait) -> Scope:
    """The same caller's GET of the wait's path, under the same request id."""
    headers = [(name, value) for name, value in scope["headers"] if name not in _REPLACED_HEADERS]
    path, _, query = wait.render_path.partition("?")
    return {
        **scope,
        WAITED_KEY: True,
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [*headers, (b"x-request-id", scope[REQUEST_ID_KEY].encode())],
    }


def _with_headers(send: Send, wait: Wait) -> Send:
    """Adds the wait's headers to the answer."""
    added = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in wait.headers]

    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return send_more


def _empty_body() -> Receive:
    """A body that is over at once, from a client that stays."""
    messages: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    return receive
