"""How a new generation comes into the queue: its limits, its turn, its row, and its place, at once.

Two statements in one round trip. The first lets the creations of one owner follow one another; the second is read as
of the moment in which it holds that lock, so that no limit is exceeded and no turn is given twice. The server's own
limit may be exceeded by what several users store at the same moment.
"""

import json
from functools import cache
from typing import Any, Final

from django.db import DEFAULT_DB_ALIAS, connection
from django.db.models.expressions import DatabaseDefault

from generation.models import Generation
from generation.queue.limits import Limits, limits_check, limits_now
from generation.queue.standing import LOAD, LOAD_VALUES, standing_of

_LOCK: Final = "SELECT FROM auth_user WHERE id = %(owner_id)s FOR NO KEY UPDATE; "

# A new generation gets the turn after its owner's last one, or after the one that its priority has reached.
_PLACE: Final = """
WITH place AS (
    SELECT
        %(owner_id)s AS owner_id,
        %(priority)s AS priority,
        1 + greatest(
            0,
            (SELECT turn FROM generation_queueturn WHERE priority = %(priority)s),
            (
                SELECT max(turn) FROM generation_generation
                WHERE owner_id = %(owner_id)s AND priority = %(priority)s AND status IN ('queued', 'running')
            )
        ) AS turn,
        %(id)s AS id
),
"""
_USED: Final = """
used AS (
    SELECT
        (SELECT coalesce(sum(rows), 0) FROM load) AS queued,
        (SELECT coalesce(sum(own), 0) FROM load) AS own,
        CASE WHEN %(max_work)s IS NOT NULL THEN (
            SELECT coalesce(sum(pixel_steps), 0) FROM generation_workentry
            WHERE owner_id = %(owner_id)s AND created_at > %(work_since)s
        ) END AS work,
        CASE WHEN %(max_bytes)s IS NOT NULL THEN (
            SELECT coalesce(sum(size_bytes), 0) FROM generation_generatedimage picture
            JOIN generation_generation drawn ON drawn.id = picture.generation_id
            WHERE drawn.owner_id = %(owner_id)s AND picture.id >= %(bytes_since)s
        ) + (
            SELECT coalesce(sum(input_bytes), 0) FROM generation_generation
            WHERE owner_id = %(owner_id)s AND id >= %(bytes_since)s AND input_bytes > 0
        ) END AS bytes
),
"""
_STORED: Final = """
stored AS (
    INSERT INTO generation_generation ({columns})
    SELECT {columns}
    FROM used CROSS JOIN jsonb_populate_record(
        NULL::generation_generation, %(row)s::jsonb || jsonb_build_object('turn', (SELECT turn FROM place))
    )
    WHERE coalesce(used.own < %(max_own)s, true)
        AND coalesce(used.queued < %(max_queued)s, true)
        AND coalesce(used.work + %(pixel_steps)s <= %(max_work)s, true)
        AND coalesce(used.bytes + %(input_bytes)s < %(max_bytes)s, true)
    RETURNING {returned}
),
noted AS (
    INSERT INTO generation_workentry (generation_id, owner_id, pixel_steps, created_at)
    SELECT id, %(owner_id)s, %(pixel_steps)s, %(created_at)s FROM stored
)
SELECT place.turn, (SELECT coalesce(sum(ahead), 0) FROM load), (SELECT ms FROM start), stored.*
FROM place CROSS JOIN stored
"""


def generation_admit(generation: Generation) -> None:
    """Stores a new generation at its owner's next turn, and notes where that is. Part of the caller's transaction.

    Raises UserQueueFullError, WorkLimitError, StorageQuotaError or QueueFullError.
    """
    if not _store(generation, limits_now(generation.owner_id)):
        limits_check(generation)
        # The exact count has room: the first one took for used what may have been deleted, or has started since.
        _store(generation, Limits())


@cache
def _statement(columns: tuple[str, ...], defaults: tuple[str, ...]) -> str:
    """What stores a row of these columns, and returns its id and the columns that have their default."""
    stored = _STORED.format(columns=", ".join(columns), returned=", ".join(("id", *defaults)))
    return f"{_LOCK}{_PLACE}{LOAD}, {_USED}{stored}"


def _store(generation: Generation, limits: Limits) -> bool:
    """Stores it within the limits; False where one of them is reached."""
    values: dict[str, Any] = {}
    defaults = []
    for field in Generation._meta.concrete_fields:  # noqa: SLF001 - Django's own interface
        value = field.pre_save(generation, add=True)
        if isinstance(value, DatabaseDefault):
            defaults.append(str(field.column))
        else:
            values[str(field.column)] = value
    parameters = {name: values[name] for name in ("id", "owner_id", "priority", "input_bytes", "created_at")}
    # Ids and times as PostgreSQL reads them.
    parameters |= {"row": json.dumps(values, default=str), "pixel_steps": generation.pixel_steps}
    with connection.cursor() as cursor:
        cursor.execute(_statement(tuple(values), tuple(defaults)), parameters | LOAD_VALUES | limits.values())
        cursor.nextset()
        row = cursor.fetchone()
    if row is None:
        return False
    turn, ahead, wait_ms, _, *chosen = row
    state = generation._state  # noqa: SLF001 - as Model.save does
    state.adding, state.db = False, DEFAULT_DB_ALIAS
    for name, value in zip(defaults, chosen, strict=True):
        setattr(generation, name, value)
    generation.turn = turn
    generation.standing = standing_of(generation, ahead=ahead, wait_ms=wait_ms)
    return True
