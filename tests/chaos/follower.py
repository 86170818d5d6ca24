"""Followers of feeds that come back whenever they are cut off, in a thread of their own."""

import asyncio
import json
import threading
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import websockets
from websockets.exceptions import WebSocketException

from tests.chaos.fleet import ENDS, PATIENCE_S

COME_BACK_S = 0.3


@dataclass
class Followed:
    """What a follower has seen."""

    job_id: str
    events: list[dict[str, Any]] = field(default_factory=list)
    cut_off: int = 0

    @property
    def end(self) -> str:
        """The type of its terminal event, or ""."""
        kinds = [event["type"] for event in self.events if event["type"] in ENDS]
        return kinds[-1] if kinds else ""

    @property
    def seqs(self) -> list[int]:
        """The numbers of its events; a snapshot has none of its own."""
        return [event["seq"] for event in self.events if event["type"] != "snapshot"]


class Followers:
    """Follows any number of generations until their ends."""

    def __init__(self, url: str) -> None:
        self._url = url.replace("http", "ws", 1)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="followers", daemon=True)
        self._thread.start()
        self._pending: list[Future[Followed]] = []

    def follow(self, job_id: str, headers: dict[str, str]) -> "Future[Followed]":
        """Starts to follow a generation, as the user of these headers."""
        future = asyncio.run_coroutine_threadsafe(self._follow(Followed(job_id), headers), self._loop)
        self._pending.append(future)
        return future

    def results(self) -> list[Followed]:
        """What all followers have seen, once each has seen its end. Raises TimeoutError."""
        return [future.result(PATIENCE_S) for future in self._pending]

    def close(self) -> None:
        """Ends the thread."""
        for future in self._pending:
            future.cancel()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _follow(self, seen: Followed, headers: dict[str, str]) -> Followed:
        while not seen.end:
            with suppress(WebSocketException, OSError, TimeoutError):
                await self._read(seen, headers)
            if not seen.end:
                seen.cut_off += 1
                await asyncio.sleep(COME_BACK_S)
        return seen

    async def _read(self, seen: Followed, headers: dict[str, str]) -> None:
        query = f"?after={max(seen.seqs)}" if seen.seqs else ""
        address = f"{self._url}/ws/generations/{seen.job_id}/{query}"
        async with websockets.connect(address, additional_headers=headers) as socket:
            async for message in socket:
                seen.events.append(json.loads(message))
