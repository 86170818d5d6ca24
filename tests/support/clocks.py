"""PostgreSQL's clock, set: the only one that the service asks about leases and heartbeats."""

from typing import Any

_SHIFTED = """
CREATE SCHEMA shifted;
CREATE TABLE shifted.shift AS SELECT interval '0' AS by;
CREATE FUNCTION shifted.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS
    'SELECT pg_catalog.statement_timestamp() + (SELECT by FROM shifted.shift)';
"""
# Where our function is found before the server's own.
SEARCH_PATH = "shifted, public, pg_catalog"


def clock_replace(execute: Any) -> None:
    """Puts a clock that can be set in the place of the server's; for those whose search path names it first."""
    execute(_SHIFTED)


def clock_set(execute: Any, *, seconds: int) -> None:
    """Sets it that much before or behind the real time."""
    execute(f"UPDATE shifted.shift SET by = interval '{seconds} seconds'")
