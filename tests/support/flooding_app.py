"""An application for a web server of the tests: floods sockets, and tells over HTTP how they ended."""

import asyncio
import json
from typing import Any

import imagegen_project.asgi  # noqa: F401 - it prepares the server

MESSAGE = "x" * 16_384
# What a socket below /stream/last is sent, before it is closed.
LAST = "x" * 1_200_000
ENDED: dict[str, int] = {}
SENT: dict[str, int] = {}


async def application(scope: Any, receive: Any, send: Any) -> None:
    """A socket's path is its name; HTTP answers what became of all."""
    if scope["type"] == "http":
        body = json.dumps({"ended": ENDED, "sent": SENT}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
        return
    name = scope["path"]
    await receive()
    await send({"type": "websocket.accept"})
    if name.startswith("/stream/last"):
        await send({"type": "websocket.send", "text": LAST})
        await send({"type": "websocket.close", "code": 1000})
        ENDED[name] = (await receive()).get("code", 0)
        return
    if name.startswith("/ws/silent"):
        message = await receive()
        ENDED[name] = message.get("code", 0)
        return
    ending = asyncio.ensure_future(receive())
    while not ending.done():
        await send({"type": "websocket.send", "text": MESSAGE})
        SENT[name] = SENT.get(name, 0) + len(MESSAGE)
        await asyncio.sleep(0.001)
    ENDED[name] = ending.result().get("code", 0)
