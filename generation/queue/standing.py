"""Where a queued generation stands, and when it should start by the speeds that were measured."""

from datetime import timedelta
from typing import Any, Final

from django.db import connection
from django.db.models import QuerySet
from django.utils import timezone

from generation.choices import Status
from generation.models import WORKER_ALIVE, Generation, Standing
from generation.queue.precedence import QUEUE_ORDER, generations_claimable
from models_registry.choices import DiskState

# How many of a model's latest generations say how fast it is.
SPEED_SAMPLES = 20

# What a place in the queue needs to be judged: CTEs behind one that is called `place` and has the columns owner_id,
# priority, turn and id. `load` is, by model, how many wait (`rows`), how many of them are the owner's (`own`), and how
# many are `ahead`; its `work` is that of what is ahead and what is left of what runs. `start` is the milliseconds until
# all of it is done: what was drawn with others counts with its share, since together they took no longer than one.
# Null where a model's speed is unknown, or nobody is there to work.
LOAD: Final = """
load AS (
    SELECT checkpoint_id, sum(rows) AS rows, sum(own) AS own, sum(ahead) AS ahead, sum(work) AS work
    FROM (
        SELECT
            checkpoint_id,
            count(*) AS rows,
            count(*) FILTER (WHERE waits.owner_id = place.owner_id) AS own,
            count(*) FILTER (WHERE is_ahead) AS ahead,
            sum(width::bigint * height * num_images * total_steps) FILTER (WHERE is_ahead) AS work
        FROM generation_generation waits
        CROSS JOIN place
        CROSS JOIN LATERAL (
            SELECT (-waits.priority, waits.turn, waits.id) < (-place.priority, place.turn, place.id) AS is_ahead
        ) compared
        WHERE status = 'queued'
        GROUP BY checkpoint_id
        UNION ALL
        SELECT
            checkpoint_id, 0, 0, 0,
            sum(width::bigint * height * num_images * (total_steps - step))
        FROM generation_generation
        WHERE status = 'running'
        GROUP BY checkpoint_id
    ) parts
    GROUP BY checkpoint_id
),
start AS (
    SELECT
        CASE WHEN count(*) = count(speed.ms) THEN coalesce(sum(load.work * speed.ms), 0) END
            / (
                SELECT nullif(count(*), 0) FROM generation_worker
                WHERE heartbeat_at >= statement_timestamp() - %(worker_alive)s
            ) AS ms
    FROM load
    LEFT JOIN LATERAL (
        SELECT sum(latest.busy_ms)::float / nullif(sum(latest.work), 0) AS ms
        FROM (
            SELECT
                coalesce(busy_ms, latency_ms) AS busy_ms,
                width::bigint * height * num_images * total_steps AS work
            FROM generation_generation drawn
            WHERE status = 'succeeded' AND drawn.checkpoint_id = load.checkpoint_id AND latency_ms IS NOT NULL
                AND finished_at IS NOT NULL  -- else an index of all is read through what has not ended
            ORDER BY finished_at DESC
            LIMIT %(speed_samples)s
        ) latest
    ) speed ON true
    WHERE load.work > 0
)"""
LOAD_VALUES: Final[dict[str, Any]] = {"worker_alive": WORKER_ALIVE, "speed_samples": SPEED_SAMPLES}

_STANDING: Final = (
    "WITH place AS (SELECT owner_id, priority, turn, id FROM generation_generation WHERE id = %(id)s), "  # noqa: S608 - all of it stands here
    + LOAD
    + " SELECT (SELECT coalesce(sum(ahead), 0) FROM load), (SELECT ms FROM start)"
)


def queue_standing(generation: Generation) -> Standing | None:
    """The place of a queued generation, and when it should start; None once it is not queued any more."""
    if generation.status != Status.QUEUED:
        return None
    with connection.cursor() as cursor:
        cursor.execute(_STANDING, LOAD_VALUES | {"id": generation.id})
        ahead, wait_ms = cursor.fetchone()
    return standing_of(generation, ahead=ahead, wait_ms=wait_ms)


def standing_of(generation: Generation, *, ahead: int, wait_ms: float | None) -> Standing:
    """A queued generation's standing, by what is ahead of it; the start is unknown while its files are missing."""
    if wait_ms is None or generation.checkpoint.state != DiskState.PRESENT:
        return Standing(int(ahead) + 1, None)
    return Standing(int(ahead) + 1, timezone.now() + timedelta(milliseconds=wait_ms))


def seconds_to_next_start(queued: QuerySet[Generation] | None = None) -> float | None:
    """When the first of these (by default: of all queued generations) should start; None where nobody knows."""
    rows = generations_claimable() if queued is None else queued
    first = rows.select_related("checkpoint").order_by(*QUEUE_ORDER).first()
    standing = queue_standing(first) if first else None
    if standing is None or standing.starts_at is None:
        return None
    return (standing.starts_at - timezone.now()).total_seconds()
