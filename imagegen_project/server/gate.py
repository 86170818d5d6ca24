"""What stands before Django: caps bodies, bounds how many requests are inside at once, and waits outside it."""

import asyncio
import contextlib
import json

from django.conf import settings

from generation.compat.shapes import shape_of
from generation.feed.following import wait_for_end
from generation.services import generations_abandon
from imagegen_project.common.asgi import Application, Message, Receive, Scope, Send, hung_up
from imagegen_project.common.executors import run_in_socket_executor
from imagegen_project.common.problems import problem_response
from imagegen_project.common.shutdown import is_ending, waits_over
from imagegen_project.common.waiting import ORDER_KEY, REQUEST_ID_KEY, WAITED_KEY, StreamOrder, WaitOrder
from imagegen_project.server.bodies import body_limit, in_pieces

LIVENESS_PATH = "/health"


class BodyTooLargeError(Exception):
    """A body without a declared length grew over the cap."""


class RequestGate:
    """Stands before Django: caps bodies, bounds how many requests are inside at once, and waits outside it.

    Every request inside Django's ASGI handler holds a thread, a waiting one too. So a view that has to wait leaves a
    `WaitOrder` in the scope and returns; the gate drops that answer, waits on the generation's feed as a coroutine,
    and asks Django again for the answer to give.
    """

    def __init__(self, application: Application) -> None:
        self.application = application
        self.places = asyncio.Semaphore(settings.WEB_CONCURRENCY)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one HTTP request."""
        limit = body_limit(scope["path"])
        if _declared_length(scope) > limit:
            await _refuse_body(scope, send, limit)
            return
        started = False

        async def send_unless_waiting(message: Message) -> None:
            nonlocal started
            if ORDER_KEY not in scope:
                started = True
                await send(message)

        # Whether the process lives is said at once, even where requests inside wait for a database that is away.
        place = contextlib.nullcontext() if scope["path"] == LIVENESS_PATH else self.places
        try:
            async with place:
                await self.application(scope, _capped(in_pieces(receive), limit), send_unless_waiting)
        except BodyTooLargeError:
            if not started:
                await _refuse_body(scope, send, limit)
            return
        order: WaitOrder | StreamOrder | None = scope.pop(ORDER_KEY, None)
        if order is None:
            return
        if isinstance(order, StreamOrder):
            await order.application(scope, receive, send)
            return
        if await _wait(order, receive):
            async with self.places:
                await self.application(_render_scope(scope, order), _empty_body(), _with_headers(send, order))
        elif order.cancel_on_disconnect and not is_ending():
            await run_in_socket_executor(generations_abandon, ids=order.feed_ids)


def _declared_length(scope: Scope) -> int:
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    return int(lengths[0]) if lengths and lengths[0].isdigit() else 0


async def _refuse_body(scope: Scope, send: Send, limit: int) -> None:
    variable = "MAX_BODY_MB" if limit == settings.MAX_BODY_BYTES else "LORA_MAX_UPLOAD_MB"
    response = problem_response(
        413, "body_too_large", f"The body may have at most {limit / 1024 / 1024:g} MiB ({variable})."
    )
    body, content_type = response.content, response.headers["Content-Type"]
    if shape := shape_of(scope["path"]):
        body, content_type = json.dumps(shape(json.loads(body))).encode(), "application/json"
    headers = [(b"content-type", content_type.encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})


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


async def _wait(order: WaitOrder, receive: Receive) -> bool:
    """Waits for the generation's end, the limit or the process' last moments; False when the client hung up first."""
    end = asyncio.create_task(wait_for_end(order.feed_ids, seconds=order.seconds))
    over = asyncio.create_task(waits_over())
    gone = asyncio.create_task(hung_up(receive))
    await asyncio.wait((end, over, gone), return_when=asyncio.FIRST_COMPLETED)
    for task in (end, over, gone):
        task.cancel()
    # A wait that broke, for instance because the database went away, ends here too: Django says so when asked again.
    await asyncio.gather(end, over, gone, return_exceptions=True)
    return not (end.cancelled() and over.cancelled())


_REPLACED_HEADERS = (b"content-length", b"content-type", b"transfer-encoding", b"expect", b"x-request-id")


def _render_scope(scope: Scope, order: WaitOrder) -> Scope:
    """The same caller's GET of the order's path, under the same request id."""
    headers = [(name, value) for name, value in scope["headers"] if name not in _REPLACED_HEADERS]
    path, _, query = order.render_path.partition("?")
    return {
        **scope,
        WAITED_KEY: True,
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [*headers, (b"x-request-id", scope[REQUEST_ID_KEY].encode())],
    }


def _with_headers(send: Send, order: WaitOrder) -> Send:
    """Adds the order's headers to the answer."""
    added = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in order.headers]

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
