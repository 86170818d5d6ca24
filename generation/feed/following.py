"""Following generations from the web process: in order, without gaps, however late one joins.

Each generation that is followed in this process has one `Feed`: one subscription to the Channels group, shared by all
its followers; those who only wait for its end have another, which no step wakes. A follower replays the Redis stream,
then takes what the feed brings. Where an event's `prev` shows a gap it re-reads the stream; a feed that has been quiet
for two seconds re-reads stream and row, all quiet feeds of the process together, so even a lost *last* event hangs
nobody.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from channels.layers import get_channel_layer
from django.conf import settings
from redis import asyncio as aioredis
from redis.exceptions import RedisError

from generation.choices import TERMINAL
from generation.feed.lag import event_measure
from generation.feed.messages import TERMINAL_EVENTS, Event
from generation.feed.snapshots import feed_snapshots
from generation.feed.stream import events_decode, group_name, previews_key, stream_key
from imagegen_project.common.executors import run_in_socket_executor

logger = logging.getLogger(__name__)

QUIET_S = 2.0
SUBSCRIBE_S = 1.0


class Feed:
    """One generation's events, or its end alone, as they come into this process, handed to every follower's queue."""

    def __init__(self, generation_id: UUID, *, ends_only: bool) -> None:
        self.generation_id = generation_id
        self.ends_only = ends_only
        self.followers: set[asyncio.Queue[Event]] = set()
        self.last_seq = 0
        self.heard_at = time.monotonic()
        self.subscribed = asyncio.Event()
        self.closed = False
        self.task = asyncio.create_task(self._receive())

    def deliver(self, event: Event) -> None:
        """Hands an event to all followers; they drop what they have already sent."""
        self.heard_at = time.monotonic()
        self.last_seq = max(self.last_seq, event["seq"])
        for queue in self.followers:
            queue.put_nowait(event)

    def close(self) -> None:
        """Ends the subscription."""
        self.closed = True
        self.task.cancel()

    async def _receive(self) -> None:
        layer = get_channel_layer()
        group = group_name(self.generation_id, ends_only=self.ends_only)
        channel = ""
        try:
            # Not for ever: a cancellation that comes while Redis' client connects can get lost in there.
            while not self.closed:
                try:
                    channel = channel or await layer.new_channel()
                    await layer.group_add(group, channel)
                    self.subscribed.set()
                    while not self.closed:
                        message = await layer.receive(channel)
                        event_measure(message["event"])
                        self.deliver(message["event"])
                except (RedisError, OSError) as error:
                    # Until Redis is back, followers live on what the row says.
                    logger.warning("feed interrupted", extra={"reason": type(error).__name__})
                    await asyncio.sleep(1)
        finally:
            with contextlib.suppress(RedisError, OSError):
                await layer.group_discard(group, channel)


class FeedHub:
    """All feeds of one event loop."""

    def __init__(self) -> None:
        self.feeds: dict[tuple[UUID, bool], Feed] = {}
        self.redis = aioredis.from_url(settings.REDIS_URL, decode_responses=True, socket_timeout=5)
        self.watch: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def join(
        self, generation_id: UUID, *, ends_only: bool = False
    ) -> AsyncIterator[asyncio.Queue[Event]]:
        """A queue that gets the generation's events from now on, or its end and what a quiet feed re-reads."""
        key = generation_id, ends_only
        feed = self.feeds.get(key)
        if feed is None:
            feed = self.feeds[key] = Feed(generation_id, ends_only=ends_only)
        queue: asyncio.Queue[Event] = asyncio.Queue()
        feed.followers.add(queue)
        if self.watch is None or self.watch.done():
            self.watch = asyncio.create_task(self._watch())
        try:
            # Reading the stream before the subscription stands could miss what comes between.
            # Not wait_for: before Python 3.12 it swallows a cancellation that comes as its wait ends.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SUBSCRIBE_S):
                    await feed.subscribed.wait()
            yield queue
        finally:
            feed.followers.discard(queue)
            if not feed.followers and self.feeds.get(key) is feed:
                del self.feeds[key]
                feed.close()

    async def stream(self, generation_id: UUID, after: int) -> list[Event]:
        """The stored events after a sequence number; none while Redis is away."""
        return await self._stored(generation_id, _behind(after), "+")

    async def is_over(self, generation_id: UUID, after: int) -> bool:
        """Whether the stored event with this number is the terminal one."""
        stored = await self._stored(generation_id, f"{after}-0", f"{after}-0")
        return any(event["type"] in TERMINAL_EVENTS for event in stored)

    async def _stored(self, generation_id: UUID, first: str, last: str) -> list[Event]:
        pipe = self.redis.pipeline(transaction=False)
        _read(pipe, generation_id, first, last)
        try:
            # In a task of its own: Redis' client loses a cancellation that comes while it connects, and the follower of
            # a socket that went away would stay for ever.
            reading = asyncio.ensure_future(pipe.execute())
            reading.add_done_callback(_failure_read)
            entries, previews = await asyncio.shield(reading)
        except (RedisError, OSError):
            return []
        return events_decode(entries, previews)

    async def _watch(self) -> None:
        """Re-reads quiet feeds until there is none left."""
        while self.feeds:
            await asyncio.sleep(QUIET_S / 2)
            now = time.monotonic()
            quiet = [feed for feed in self.feeds.values() if now - feed.heard_at >= QUIET_S]
            if quiet:
                try:
                    await self._reread(quiet)
                except Exception:
                    logger.exception("quiet feeds not re-read")

    async def _reread(self, quiet: list[Feed]) -> None:
        for feed in quiet:
            feed.heard_at = time.monotonic()
        try:
            pipe = self.redis.pipeline(transaction=False)
            for feed in quiet:
                _read(pipe, feed.generation_id, _behind(feed.last_seq), "+")
            found = await pipe.execute()
        except (RedisError, OSError):
            found = [[] for _ in quiet for _ in ("events", "previews")]
        silent: list[Feed] = []
        for feed, entries, previews in zip(quiet, found[::2], found[1::2], strict=True):
            for event in events_decode(entries, previews):
                feed.deliver(event)
            if not entries:
                silent.append(feed)
        if not silent:
            return
        rows = await run_in_socket_executor(feed_snapshots, [feed.generation_id for feed in silent])
        for feed in silent:
            row = rows.get(feed.generation_id)
            if row is None or row["status"] in TERMINAL:
                feed.deliver(_terminal(feed.generation_id, row, feed.last_seq))


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, FeedHub] = WeakKeyDictionary()


def feed_hub() -> FeedHub:
    """The hub of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _hubs:
        _hubs[loop] = FeedHub()
    return _hubs[loop]


def _read(pipe: Any, generation_id: UUID, first: str, last: str) -> None:
    """Asks for a part of a generation's events, and for what is kept of their previews."""
    pipe.xrange(stream_key(generation_id), first, last)
    pipe.xrange(previews_key(generation_id), first, last)


def _failure_read(reading: "asyncio.Future[Any]") -> None:
    """Takes note of a failure that nobody waits for any more: asyncio would log it as one that was overlooked."""
    if not reading.cancelled():
        reading.exception()


def _behind(seq: int) -> str:
    """The stream's range that begins behind a sequence number."""
    return f"({seq}-0" if seq else "-"


def _terminal(generation_id: UUID, row: Event | None, after: int) -> Event:
    """A terminal event made from the row, for a follower whose own got lost; a deleted row ends as canceled."""
    made: dict[str, Any] = (
        dict(row) if row else {"job_id": str(generation_id), "at": "", "attempt": 0, "reason": "deleted"}
    )
    made.update(type=made.get("status", "canceled"), seq=after + 1, prev=after)
    return made  # type: ignore[return-value]  # a snapshot's keys are an event's


async def follow(generation_id: UUID, *, after: int | None = None) -> AsyncGenerator[Event, None]:
    """A generation's events in order, ending with its terminal one; without `after`, behind a snapshot of the row.

    `after` resumes behind a sequence number. Where the stream no longer holds what comes next (its time is over, or it
    was trimmed or flushed), a snapshot stands in for what is missing.
    """
    hub = feed_hub()
    last = after or 0
    async with hub.join(generation_id) as queue:
        events = await hub.stream(generation_id, last)
        if after is None or not events or events[0]["prev"] > last:
            snapshot = (await run_in_socket_executor(feed_snapshots, [generation_id])).get(generation_id)
            if snapshot is not None:
                yield snapshot | {"seq": last, "prev": last}
            if not events and (snapshot is None or snapshot["status"] in TERMINAL):
                yield _terminal(generation_id, snapshot, last)
                return
        while True:
            for event in events:
                if event["seq"] <= last:
                    continue
                # A Redis that died may have forgotten what it told last: what comes then names an event before that.
                yield event | {"prev": last} if event["prev"] < last else event
                last = event["seq"]
                if event["type"] in TERMINAL_EVENTS:
                    return
            event = await queue.get()
            missed = await hub.stream(generation_id, last) if event["prev"] > last else []
            events = [*missed, event]


async def wait_for_end(feed_ids: Iterable[UUID], *, seconds: float) -> bool:
    """Waits, without a thread, until all of these have ended; False when `seconds` passed first."""
    try:
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(_wait_for_end(feed_id) for feed_id in feed_ids))
    except TimeoutError:
        return False
    return True


async def _wait_for_end(feed_id: UUID) -> None:
    hub = feed_hub()
    async with hub.join(feed_id, ends_only=True) as queue:
        events = await hub.stream(feed_id, 0)
        if not events:
            snapshot = (await run_in_socket_executor(feed_snapshots, [feed_id])).get(feed_id)
            if snapshot is None or snapshot["status"] in TERMINAL:
                return
        while not any(event["type"] in TERMINAL_EVENTS for event in events):
            events = [await queue.get()]
