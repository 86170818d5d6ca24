"""Publishing to a generation's feed: a capped Redis stream first, then the sockets that follow it.

One Lua script appends and numbers an event, so sequence numbers never go backwards: an event's number is the server's
clock in microseconds, or one more than the last number where that is greater. The script refuses what a stale attempt
sends and everything after a terminal event.

Previews are by far the largest part of events, and of no use later. They travel to those who follow now; the stream
keeps none of them, and a second one beside it the last few, for those who join late or missed an event.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from channels.layers import get_channel_layer
from django.conf import settings
from django.utils import timezone
from redis.exceptions import RedisError

from generation.feed.messages import TERMINAL_EVENTS, Event, EventType
from imagegen_project.common.redis import redis_client

logger = logging.getLogger(__name__)


class Publish(Protocol):
    """What takes an event to the feed of a generation, an order or a LoRA."""

    def __call__(self, generation_id: UUID, event_type: EventType, *, attempt: int, **data: Any) -> None:
        """Hands an event over."""


_APPEND = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local prev = 0
if #last > 0 then
  prev = tonumber(string.match(last[1][1], '^%d+'))
  local fields = last[1][2]
  for i = 1, #fields, 2 do
    if fields[i] == 'final' and fields[i + 1] == '1' then return false end
    if fields[i] == 'attempt' and tonumber(fields[i + 1]) > tonumber(ARGV[1]) then return false end
  end
end
local now = redis.call('TIME')
local seq = tonumber(now[1]) * 1000000 + tonumber(now[2])
if seq <= prev then seq = prev + 1 end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], string.format('%.0f-0', seq),
  'attempt', ARGV[1], 'final', ARGV[2], 'prev', string.format('%.0f', prev), 'data', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[5])
if ARGV[6] ~= '' then
  redis.pcall('XADD', KEYS[2], 'MAXLEN', ARGV[7], string.format('%.0f-0', seq), 'preview', ARGV[6])
  redis.call('EXPIRE', KEYS[2], ARGV[5])
end
if ARGV[2] == '1' then redis.call('EXPIRE', KEYS[2], ARGV[8]) end
return {seq, prev}
"""

# As many as a stream of partial pictures may want; once the job has ended, for those who are still reading.
KEPT_PREVIEWS = 4
PREVIEWS_AFTER_END_S = 60


def stream_key(generation_id: UUID | str) -> str:
    """The Redis stream of a generation's feed."""
    return f"imagegen:feed:{generation_id}"


def previews_key(generation_id: UUID | str) -> str:
    """The Redis stream of a generation's last previews, under the numbers of their events."""
    return f"imagegen:previews:{generation_id}"


def group_name(generation_id: UUID | str, *, ends_only: bool = False) -> str:
    """The Channels group of the processes that follow a generation, or of those that only wait for its end."""
    return f"generation.{'end.' if ends_only else ''}{generation_id}"


def event_decode(entry_id: str, fields: dict[str, str]) -> Event:
    """An event from its stream entry."""
    event: Event = json.loads(fields["data"])
    event["seq"] = int(entry_id.partition("-")[0])
    event["prev"] = int(fields["prev"])
    return event


def events_decode(
    entries: Iterable[tuple[str, dict[str, str]]], previews: Iterable[tuple[str, dict[str, str]]]
) -> list[Event]:
    """Events from their stream's entries, with those previews that are still kept."""
    kept = {entry_id: fields["preview"] for entry_id, fields in previews}
    events = []
    for entry_id, fields in entries:
        event = event_decode(entry_id, fields)
        if preview := kept.get(entry_id):
            event["preview"] = preview
        events.append(event)
    return events


def preview_latest(generation_id: UUID) -> str | None:
    """The latest preview, a JPEG in base64; None while there is none, or while Redis is away."""
    try:
        entries = redis_client().xrevrange(previews_key(generation_id), count=1)
    except (RedisError, OSError):
        return None
    return entries[0][1][b"preview"].decode("ascii") if entries else None


@dataclass(frozen=True)
class Telling:
    """An event before it has a number."""

    generation_id: UUID
    event_type: EventType
    attempt: int
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def is_final(self) -> bool:
        """Whether it is the end of its generation."""
        return self.event_type in TERMINAL_EVENTS


def events_append(tellings: Sequence[Telling]) -> list[Event | RedisError | None]:
    """Puts events into their streams and numbers them, in one round trip.

    For each the event, None where it is stale, or the error with which Redis refused it. Raises RedisError where Redis
    is away.
    """
    # Not one transaction: each generation's feed is its own.
    pipe = redis_client().pipeline(transaction=False)
    events = [_append(pipe, each) for each in tellings]
    found: list[Event | RedisError | None] = []
    for event, answer in zip(events, pipe.execute(raise_on_error=False), strict=True):
        if isinstance(answer, list):
            event["seq"], event["prev"] = (int(number) for number in answer)
            found.append(event)  # type: ignore[arg-type]  # the dict has the event's keys by construction
        else:
            found.append(answer)
    return found


def _append(pipe: Any, telling: Telling) -> dict[str, Any]:
    """Adds the appending of an event to what a pipeline of Redis will do; the event, without numbers."""
    event: dict[str, Any] = {
        "type": telling.event_type,
        "seq": 0,
        "prev": 0,
        "job_id": str(telling.generation_id),
        "at": timezone.now().isoformat(timespec="milliseconds"),
        "attempt": telling.attempt,
        **telling.data,
    }
    stored = event | {"preview": None} if "preview" in event else event
    pipe.eval(
        _APPEND,
        2,
        stream_key(telling.generation_id),
        previews_key(telling.generation_id),
        telling.attempt,
        int(telling.is_final),
        json.dumps(stored, separators=(",", ":")),
        settings.FEED_MAX_EVENTS,
        settings.FEED_TTL_S,
        event.get("preview") or "",
        KEPT_PREVIEWS,
        PREVIEWS_AFTER_END_S,
    )
    return event


def event_begin(pipe: Any, generation_id: UUID, event_type: EventType, **data: Any) -> None:
    """Adds the first event of a feed to what a pipeline of Redis will do.

    Nobody is told: nobody can follow yet, and who comes now reads the stream.
    """
    _append(pipe, Telling(generation_id, event_type, 0, data))


def event_append(generation_id: UUID, event_type: EventType, *, attempt: int, **data: Any) -> Event | None:
    """Puts an event into its stream and numbers it; None when it is stale. Raises RedisError."""
    (event,) = events_append([Telling(generation_id, event_type, attempt, data)])
    if isinstance(event, RedisError):
        raise event
    return event


def events_notify(events: Iterable[Event]) -> None:
    """Tells the processes that follow the generations, in one round trip. Raises RedisError.

    It does what the channel layer's `group_send` does, which wants an event loop, and a round trip for each.
    """
    layer = get_channel_layer()
    pipe: Any = redis_client().pipeline(transaction=False)
    for event in events:
        message = layer.serialize({"type": "generation.event", "event": event})
        for ends_only in (False, True) if event["type"] in TERMINAL_EVENTS else (False,):
            group = group_name(event["job_id"], ends_only=ends_only)
            pipe.publish(f"{settings.CHANNELS_PREFIX}__group__{group}", message)
    pipe.execute()


def event_publish(generation_id: UUID, event_type: EventType, *, attempt: int, **data: Any) -> None:
    """Appends and notifies. Never raises for Redis' sake: the row is the truth, and followers re-read it."""
    try:
        event = event_append(generation_id, event_type, attempt=attempt, **data)
        if event is not None:
            events_notify([event])
    except (RedisError, OSError) as error:
        logger.warning(
            "event not published", extra={"event_type": event_type, "reason": type(error).__name__}
        )
