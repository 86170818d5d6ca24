"""Following a generation: in order, without gaps, however late one joins and whatever got lost."""

import asyncio
import contextlib
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
import redis
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.db import close_old_connections
from django.db.models.functions import Now

from generation.attempts import generation_claim
from generation.choices import Status
from generation.feed import following as feeds
from generation.feed.following import feed_hub, follow, wait_for_end
from generation.feed.messages import Event
from generation.feed.stream import event_append, events_notify, stream_key
from generation.models import Generation, Worker
from generation.services import generation_delete
from generation.streams.follow_socket import GenerationConsumer
from generation.transitions import generation_move
from tests.support.endings import succeed
from tests.support.factories import GenerationMaker

pytestmark = pytest.mark.django_db(transaction=True)

WAIT_S = 20


async def publish(generation_id: UUID, event_type: Any, *, notify: bool = True, **data: Any) -> Event:
    """Appends an event and, unless it is to get lost on the way, tells the followers."""
    event = await asyncio.to_thread(event_append, generation_id, event_type, attempt=1, **data)
    assert event is not None
    if notify:
        events_notify([event])
    return event


async def collect(generation_id: UUID, *, after: int | None = None) -> list[Event]:
    """A whole feed."""
    async with asyncio.timeout(WAIT_S), contextlib.aclosing(follow(generation_id, after=after)) as events:
        return [event async for event in events]


async def subscribed(generation_id: UUID, followers: int = 1) -> None:
    """Waits until so many follow."""

    def following() -> int:
        feeds = feed_hub().feeds.values()
        return sum(len(feed.followers) for feed in feeds if feed.generation_id == generation_id)

    async with asyncio.timeout(WAIT_S):
        while following() < followers:  # noqa: ASYNC110 - a feed has no event for this, only tests want it
            await asyncio.sleep(0.01)


def types(events: list[Event]) -> list[str]:
    """What happened."""
    return [event["type"] for event in events]


async def end(generation: Generation) -> None:
    """Ends the row, without an event."""

    def move() -> None:
        generation_move(generation=generation, to=Status.CANCELED, cancel_requested_at=Now())
        close_old_connections()

    await sync_to_async(move)()


@pytest.fixture
def generation(make: GenerationMaker, redis_client: "redis.Redis[Any]") -> Generation:
    """A queued generation with an empty feed."""
    made = make()
    redis_client.delete(stream_key(made.id))
    return made


async def test_a_late_follower_gets_everything_from_the_start(generation: Generation) -> None:
    """Behind a snapshot of the row."""
    await publish(generation.id, "started")
    for step in range(1, 5):
        await publish(generation.id, "progress", step=step)
    await publish(generation.id, "succeeded")
    events = await collect(generation.id)
    assert types(events) == ["snapshot", "started", *["progress"] * 4, "succeeded"]
    assert [event["step"] for event in events if event["type"] == "progress"] == [1, 2, 3, 4]


async def test_fifty_followers_get_every_event_in_order(generation: Generation) -> None:
    """While it happens, each without a gap."""
    tasks = [asyncio.create_task(collect(generation.id)) for _ in range(50)]
    await subscribed(generation.id, 50)
    for step in range(1, 101):
        await publish(generation.id, "progress", step=step)
    await publish(generation.id, "succeeded")
    for events in await asyncio.gather(*tasks):
        assert [event.get("step") for event in events[1:-1]] == list(range(1, 101))
        for before, following in pairwise(events[1:]):
            assert following["prev"] == before["seq"]


async def test_resuming_behind_a_number_gives_the_rest(generation: Generation) -> None:
    """Exactly, without a snapshot."""
    await publish(generation.id, "started")
    seen = await publish(generation.id, "progress", step=1)
    await publish(generation.id, "progress", step=2)
    await publish(generation.id, "succeeded")
    events = await collect(generation.id, after=seen["seq"])
    assert types(events) == ["progress", "succeeded"]
    assert events[0]["prev"] == seen["seq"]


async def test_a_follower_that_missed_messages_still_sees_the_last_previews(generation: Generation) -> None:
    """One that follows from the start sees each; one that comes late those that are kept, at their events."""
    async with contextlib.aclosing(follow(generation.id)) as early:
        await anext(early)
        for step in range(1, 8):
            await publish(generation.id, "progress", step=step, preview=f"of {step}", notify=step != 6)
        await publish(generation.id, "succeeded")
        everything = [f"of {step}" for step in range(1, 8)]
        assert [event["preview"] async for event in early if event["type"] == "progress"] == everything
    late = (await collect(generation.id))[1:-1]
    assert [event["preview"] for event in late] == [*[None] * 3, *everything[3:]]


async def test_lost_messages_are_repaired_from_the_stream(generation: Generation) -> None:
    """A message that never arrived shows as a gap at the next one."""
    task = asyncio.create_task(collect(generation.id))
    await subscribed(generation.id)
    await publish(generation.id, "progress", step=1)
    await publish(generation.id, "progress", step=2, notify=False)
    await publish(generation.id, "progress", step=3, notify=False)
    await publish(generation.id, "succeeded")
    assert [event.get("step") for event in (await task)[1:]] == [1, 2, 3, None]


async def test_a_lost_last_message_hangs_nobody(generation: Generation) -> None:
    """A quiet feed re-reads its stream."""
    task = asyncio.create_task(collect(generation.id))
    await subscribed(generation.id)
    await publish(generation.id, "progress", step=1)
    await publish(generation.id, "succeeded", notify=False)
    assert types(await task)[-1] == "succeeded"


async def test_a_last_event_that_was_never_published_hangs_nobody(generation: Generation) -> None:
    """A quiet feed re-reads the row: a worker may die between the two."""
    task = asyncio.create_task(collect(generation.id))
    await subscribed(generation.id)
    await publish(generation.id, "progress", step=1)
    await end(generation)
    last = (await task)[-1]
    assert (last["type"], last["status"]) == ("canceled", "canceled")


async def test_a_flushed_redis_hangs_nobody(generation: Generation, redis_client: "redis.Redis[Any]") -> None:
    """The feed goes on with what comes, and ends with the row."""
    async with asyncio.timeout(WAIT_S), contextlib.aclosing(follow(generation.id)) as following:
        events = [await anext(following)]  # by then the stream has been read
        await publish(generation.id, "progress", step=1)
        redis_client.flushall()
        await publish(generation.id, "progress", step=2)
        await publish(generation.id, "succeeded")
        events += [event async for event in following]
    assert types(events) == ["snapshot", "progress", "progress", "succeeded"]
    assert all(following["prev"] == before["seq"] for before, following in pairwise(events))


async def test_after_the_streams_time_a_snapshot_stands_in(
    generation: Generation, worker: Worker, redis_client: "redis.Redis[Any]"
) -> None:
    """Made from the row, with the pictures, then the end."""

    def finish() -> None:
        succeed(generation_claim(worker=worker) or generation)
        close_old_connections()

    await sync_to_async(finish)()
    redis_client.flushall()
    for after in (None, 17):
        events = await collect(generation.id, after=after)
        assert types(events) == ["snapshot", "succeeded"]
        assert events[0]["images"][0]["url"].endswith("/images/0")


async def test_a_deleted_generation_ends_its_feeds(generation: Generation) -> None:
    """As canceled."""
    task = asyncio.create_task(collect(generation.id))
    await subscribed(generation.id)

    def delete() -> None:
        generation_delete(generation=generation)
        close_old_connections()

    await sync_to_async(delete)()
    last = (await task)[-1]
    assert (last["type"], last["reason"]) == ("canceled", "deleted")


async def test_waiting_ends_with_the_job_or_the_limit(generation: Generation) -> None:
    """True when it ended, False when the time did."""
    assert not await wait_for_end([generation.id], seconds=0.05)
    task = asyncio.create_task(wait_for_end([generation.id], seconds=WAIT_S))
    await subscribed(generation.id)
    await publish(generation.id, "failed")
    assert await task
    assert feed_hub().feeds == {}  # nothing is followed any more


async def test_no_step_wakes_who_waits_for_the_end(generation: Generation) -> None:
    """A request that waits for its picture costs the web process nothing while that is drawn."""
    task = asyncio.create_task(wait_for_end([generation.id], seconds=WAIT_S))
    await subscribed(generation.id)
    (feed,) = feed_hub().feeds.values()
    heard: list[Event] = []
    feed.deliver = heard.append  # type: ignore[method-assign]
    # Another follower, by whom is seen that they have arrived.
    async with contextlib.aclosing(follow(generation.id)) as events:
        await anext(events)
        for step in (1, 2):
            await publish(generation.id, "progress", step=step)
        while (await anext(events)).get("step") != 2:
            pass
    assert heard == []
    del feed.deliver
    await publish(generation.id, "succeeded")
    assert await task


async def test_a_lost_cancellation_leaves_no_subscription(
    generation: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis' client may swallow one while it connects; the feed ends all the same."""
    subscribing = asyncio.Event()

    class LosingLayer:
        def __getattr__(self, name: str) -> Any:
            return getattr(get_channel_layer(), name)

        async def group_add(self, group: str, channel: str) -> None:
            subscribing.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await get_channel_layer().group_add(group, channel)

    monkeypatch.setattr(feeds, "get_channel_layer", LosingLayer)
    task = asyncio.create_task(collect(generation.id))
    async with asyncio.timeout(WAIT_S):
        await subscribing.wait()
        subscription = feed_hub().feeds[generation.id, False].task
        task.cancel()
        await asyncio.wait([task, subscription])


def socket(user: Any, generation_id: UUID, query: str = "") -> WebsocketCommunicator:
    """A socket of this user."""
    communicator = WebsocketCommunicator(
        GenerationConsumer.as_asgi(), f"/ws/generations/{generation_id}/{query}"
    )
    communicator.scope["user"] = user
    communicator.scope["url_route"] = {"kwargs": {"generation_id": generation_id}}
    return communicator


async def test_a_socket_forwards_and_closes_after_the_end(generation: Generation, owner: User) -> None:
    """A normal close tells the client that there is nothing more to come."""
    await publish(generation.id, "started")
    communicator = socket(owner, generation.id)
    assert (await communicator.connect())[0]
    assert (await communicator.receive_json_from(WAIT_S))["type"] == "snapshot"
    assert (await communicator.receive_json_from(WAIT_S))["type"] == "started"
    await publish(generation.id, "succeeded")
    assert (await communicator.receive_json_from(WAIT_S))["type"] == "succeeded"
    assert await communicator.receive_output(WAIT_S) == {"type": "websocket.close", "code": 1000}
    await communicator.disconnect()


@pytest.mark.parametrize("query", ["?after=x", "?after=-1", "?after=1.5"])
async def test_a_bad_after_is_refused(generation: Generation, owner: User, query: str) -> None:
    """Before the socket is accepted."""
    assert not (await socket(owner, generation.id, query).connect())[0]


async def test_a_stranger_is_refused(generation: Generation, stranger: User) -> None:
    """Before the socket is accepted."""
    assert not (await socket(stranger, generation.id).connect())[0]


async def test_an_overlong_message_closes_the_socket(generation: Generation, owner: User) -> None:
    """64 kB is more than any client has to say here."""
    communicator = socket(owner, generation.id)
    await communicator.connect()
    await communicator.send_to(text_data="x" * 70_000)
    while (output := await communicator.receive_output(WAIT_S))["type"] != "websocket.close":
        pass
    assert output["code"] == 4413
    await communicator.disconnect()


async def test_whoever_leaves_is_gone(generation: Generation) -> None:
    """Whatever it waited for at that moment, a connection to Redis for instance: a lost cancellation is a leak."""

    async def follow_it() -> None:
        async for _ in follow(generation.id):
            pass

    for moment in range(100):
        follower = asyncio.create_task(follow_it())
        for _ in range(moment):
            await asyncio.sleep(0)
        await feed_hub().redis.connection_pool.disconnect()
        follower.cancel()
        await asyncio.wait([follower], timeout=WAIT_S)
        assert follower.cancelled(), moment
    assert not any(feed.generation_id == generation.id for feed in feed_hub().feeds.values())
