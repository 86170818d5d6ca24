"""Server-sent events over plain ASGI: a stream of items with a comment whenever it is quiet."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping

from imagegen_project.common.asgi import Receive, Scope, Send, hung_up
from imagegen_project.common.context import request_id
from imagegen_project.common.waiting import REQUEST_ID_KEY

logger = logging.getLogger("imagegen.request")
EVENT_STREAM = "text/event-stream"
HEARTBEAT_S = 15.0
HEARTBEAT = b": still here\n\n"


def event_bytes(event_type: str, data: str, *, seq: int | None = None) -> bytes:
    """One event on the wire; `data` is one line."""
    number = "" if seq is None else f"id: {seq}\n"
    return f"{number}event: {event_type}\ndata: {data}\n\n".encode()


async def stream_send(
    scope: Scope,
    receive: Receive,
    send: Send,
    items: AsyncGenerator[bytes, None],
    *,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Sends items as they come, with a comment whenever it is quiet, until they end or the client hangs up."""
    request_id.set(scope[REQUEST_ID_KEY])  # a stream that Django ordered is out of its request's context
    fields = {
        "Content-Type": EVENT_STREAM,
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",  # a proxy must not collect events
        "X-Request-Id": scope[REQUEST_ID_KEY],
        **(headers or {}),
    }
    await send({"type": "http.response.start", "status": 200, "headers": _encoded(fields)})
    await send({"type": "http.response.body", "body": HEARTBEAT, "more_body": True})
    gone = asyncio.create_task(hung_up(receive))
    async with contextlib.aclosing(items):
        try:
            await _send_items(send, items, gone)
        except Exception:
            logger.exception("stream broken")
        finally:
            gone.cancel()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_items(send: Send, items: AsyncGenerator[bytes, None], gone: "asyncio.Task[None]") -> None:
    coming: asyncio.Task[bytes] = asyncio.ensure_future(anext(items))
    try:
        while not gone.done():
            await asyncio.wait((coming, gone), timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                await send({"type": "http.response.body", "body": HEARTBEAT, "more_body": True})
                continue
            try:
                item = coming.result()
            except StopAsyncIteration:
                return
            await send({"type": "http.response.body", "body": item, "more_body": True})
            coming = asyncio.ensure_future(anext(items))
    finally:
        # A generator that is still asked for its next item cannot be closed.
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
