"""The feed's stream: numbered, fenced, capped, and never in the way of a job."""

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
import redis
from pytest_django import Settings

from generation.feed.publisher import Publisher
from generation.feed.stream import (
    KEPT_PREVIEWS,
    PREVIEWS_AFTER_END_S,
    event_append,
    event_decode,
    event_publish,
    preview_latest,
    previews_key,
    stream_key,
)


def stored(client: "redis.Redis[Any]", generation_id: Any) -> list[Any]:
    """The stream's events."""
    entries: Any = client.xrange(stream_key(generation_id))
    return [
        event_decode(key.decode(), {name.decode(): value.decode() for name, value in fields.items()})
        for key, fields in entries
    ]


def test_numbers_grow_and_name_their_predecessor(redis_client: "redis.Redis[Any]") -> None:
    """Also when many append at once."""
    generation_id = uuid4()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda step: event_append(generation_id, "progress", attempt=1, step=step), range(200)))
    events = stored(redis_client, generation_id)
    assert len(events) == 200
    assert events[0]["prev"] == 0
    for before, after in pairwise(events):
        assert after["prev"] == before["seq"] < after["seq"]
    assert events[-1]["seq"] < 2**53  # exact in JavaScript


def test_numbers_never_go_back_after_a_flush(redis_client: "redis.Redis[Any]") -> None:
    """A client that resumes behind an old number misses nothing new."""
    generation_id = uuid4()
    before = event_append(generation_id, "started", attempt=1)
    redis_client.flushall()
    after = event_append(generation_id, "progress", attempt=1, step=1)
    assert before is not None
    assert after is not None
    assert after["seq"] > before["seq"]


def test_a_stale_attempts_event_is_refused() -> None:
    """Its worker lost the job."""
    generation_id = uuid4()
    assert event_append(generation_id, "started", attempt=2)
    assert event_append(generation_id, "progress", attempt=1, step=3) is None
    assert event_append(generation_id, "progress", attempt=2, step=1)


@pytest.mark.parametrize("event_type", ["succeeded", "failed", "canceled"])
def test_nothing_follows_a_terminal_event(event_type: Any) -> None:
    """An end is an end."""
    generation_id = uuid4()
    assert event_append(generation_id, event_type, attempt=1)
    assert event_append(generation_id, "progress", attempt=1, step=3) is None
    assert event_append(generation_id, "succeeded", attempt=2) is None


def test_the_stream_is_capped_and_expires(redis_client: "redis.Redis[Any]", settings: Settings) -> None:
    """A feed costs a bounded piece of Redis for a bounded time."""
    settings.FEED_MAX_EVENTS = 16
    generation_id = uuid4()
    for step in range(400):
        event_append(generation_id, "progress", attempt=1, step=step)
    length: Any = redis_client.xlen(stream_key(generation_id))
    assert length < 300  # Redis trims whole nodes of about a hundred
    ttl: Any = redis_client.ttl(stream_key(generation_id))
    assert 0 < ttl <= settings.FEED_TTL_S


def test_publishing_survives_an_unreachable_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is the truth: a job must not fail for its feed."""

    def unreachable(*args: Any, **kwargs: Any) -> Any:
        raise redis.exceptions.ConnectionError

    monkeypatch.setattr("generation.feed.stream.redis_client", unreachable)
    event_publish(uuid4(), "queued", attempt=0)


def test_the_publisher_keeps_order_and_coalesces_progress(redis_client: "redis.Redis[Any]") -> None:
    """Progress that waits is replaced by newer progress; nothing else is lost, and nothing passes the end."""
    generation_id = uuid4()
    publisher = Publisher()
    publisher.send(generation_id, "started", attempt=1)
    for step in range(1, 51):
        publisher.send(generation_id, "progress", attempt=1, step=step)
    publisher.send(generation_id, "succeeded", attempt=1)
    publisher.close()
    events = stored(redis_client, generation_id)
    assert [event["type"] for event in events if event["type"] != "progress"] == ["started", "succeeded"]
    steps = [event["step"] for event in events if event["type"] == "progress"]
    assert steps == sorted(steps)
    assert steps[-1] == 50


def test_events_are_json(redis_client: "redis.Redis[Any]") -> None:
    """As clients get them."""
    generation_id = uuid4()
    event = event_append(generation_id, "failed", attempt=1, error={"code": "timeout", "detail": "late"})
    assert json.loads(json.dumps(event))["error"]["code"] == "timeout"


def test_previews_are_no_part_of_the_stream(redis_client: "redis.Redis[Any]") -> None:
    """They are most of a feed's bytes, and a picture later nobody wants them: the last few are kept, for a minute."""
    generation_id = uuid4()
    made = [
        event_append(generation_id, "progress", attempt=1, step=step, preview=f"{step:0>20000}")
        for step in range(1, 51)
    ]
    assert all(event is not None and event["preview"] for event in made), "who follows now gets each"
    assert [event["preview"] for event in stored(redis_client, generation_id)] == [None] * 50
    kept: Any = redis_client.xlen(previews_key(generation_id))
    assert kept == KEPT_PREVIEWS
    used: Any = [
        redis_client.memory_usage(key) for key in (stream_key(generation_id), previews_key(generation_id))
    ]
    assert sum(used) < 50 * 1000 + KEPT_PREVIEWS * 25_000, "fifty of them would be a megabyte"
    assert preview_latest(generation_id) == f"{50:0>20000}"
    event_append(generation_id, "succeeded", attempt=1)
    ttl: Any = redis_client.ttl(previews_key(generation_id))
    assert 0 < ttl <= PREVIEWS_AFTER_END_S
