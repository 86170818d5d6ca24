"""Sockets that follow one generation."""

import asyncio
import contextlib
import json
import logging
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

from channels.generic.websocket import AsyncWebsocketConsumer

from generation.errors import GenerationNotFoundError
from generation.feed.following import follow
from generation.selectors import generation_get
from generation.streams.cursor import seq_read
from imagegen_project.common.executors import run_in_socket_executor

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 64 * 1024
CLOSE_TOO_LARGE = 4413


class GenerationConsumer(AsyncWebsocketConsumer):
    """`/ws/generations/<id>/?after=<seq>`: the generation's events, then a normal close (1000) after the last.

    Whoever may not see the generation is refused before the socket is accepted (HTTP 403). What a client sends is not
    read; a message over 64 kB closes the socket (4413; the server can send no 1009).
    """

    # The feed hub subscribes once per generation in each process. A channel of Channels' own would subscribe once per
    # socket.
    channel_layer_alias = "none"
    task: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Authorises, accepts and starts to forward."""
        generation_id: UUID = self.scope["url_route"]["kwargs"]["generation_id"]
        user = self.scope["user"]
        after = self._after()
        if not user.is_authenticated or after is False:
            await self.close()
            return
        try:
            await run_in_socket_executor(generation_get, user=user, generation_id=generation_id)
        except GenerationNotFoundError:
            await self.close()
            return
        await self.accept(self.scope.get("accepted_subprotocol"))
        self.task = asyncio.create_task(self._forward(generation_id, after))

    def _after(self) -> Any:
        """The `after` of the query: a sequence number, None without one, False when it is not a number."""
        values = parse_qs(self.scope["query_string"].decode("ascii", "replace")).get("after")
        if not values:
            return None
        return seq_read(values[0])

    async def _forward(self, generation_id: UUID, after: int | None) -> None:
        try:
            async with contextlib.aclosing(follow(generation_id, after=after)) as events:
                async for event in events:
                    await self.send(text_data=json.dumps(event, separators=(",", ":")))
            await self.close(code=1000)
        except Exception:
            logger.exception("feed broken")
            await self.close(code=1011)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Ignores what a client says, as long as it is short."""
        if len(text_data or bytes_data or b"") > MAX_MESSAGE_BYTES:
            await self.close(code=CLOSE_TOO_LARGE)

    async def disconnect(self, code: int) -> None:
        """Stops forwarding."""
        if self.task is not None:
            self.task.cancel()
