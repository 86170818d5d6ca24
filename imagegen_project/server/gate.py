"""What stands before Django: caps bodies, bounds how many requests are inside at once, and waits outside it."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeAlias
from uuid import UUID

from django.conf import settings

from imagegen_project.common.asgi import Application, Message, Receive, Scope, Send, hung_up
from imagegen_project.common.executors import run_in_socket_executor
from imagegen_project.common.problems import problem_response
from imagegen_project.common.shutdown import is_ending, waits_over
from imagegen_project.common.waiting import AFTERWARDS_KEY, REQUEST_ID_KEY, WAITED_KEY, Stream, Wait
from imagegen_project.server.bodies import body_limit, in_pieces

LIVENESS_PATH = "/health"

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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one HTTP request."""
        limit = body_limit(scope["path"])
        if _declared_length(scope) > limit:
            await self._refuse_body(scope, send, limit)
            return
        started = False

        async def send_unless_waiting(message: Message) -> None:
            nonlocal started
            if AFTERWARDS_KEY not in scope:
                started = True
                await send(message)

        # Whether the process lives is said at once, even where requests inside wait for a database that is away.
        place = contextlib.nullcontext() if scope["path"] == LIVENESS_PATH else self.places
        try:
            async with place:
                await self.application(scope, _capped(in_pieces(receive), limit), send_unless_waiting)
        except BodyTooLargeError:
            if not started:
                await self._refuse_body(scope, send, limit)
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

    async def _refuse_body(self, scope: Scope, send: Send, limit: int) -> None:
        variable = "MAX_BODY_MB" if limit == settings.MAX_BODY_BYTES else "LORA_MAX_UPLOAD_MB"
        response = problem_response(
            413, "body_too_large", f"The body may have at most {limit / 1024 / 1024:g} MiB ({variable})."
        )
        body, content_type = response.content, response.headers["Content-Type"]
        if shape := self.error_shape(scope["path"]):
            body, content_type = json.dumps(shape(json.loads(body))).encode(), "application/json"
        headers = [(b"content-type", content_type.encode()), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})

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


def _declared_length(scope: Scope) -> int:
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    return int(lengths[0]) if lengths and lengths[0].isdigit() else 0


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
