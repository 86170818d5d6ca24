"""`manage.py wait_for`."""

import time
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

from django.core.management.base import CommandError
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from psycopg_pool import PoolTimeout
from redis.exceptions import RedisError

from imagegen_project.common.commands import ReportingCommand
from imagegen_project.common.redis import redis_client

_POLL_S = 1.0


def _database() -> bool:
    connection.ensure_connection()
    return True


def _redis() -> bool:
    return bool(redis_client().ping())


def _migrations() -> bool:
    executor = MigrationExecutor(connection)
    return not executor.migration_plan(executor.loader.graph.leaf_nodes())


SERVICES: dict[str, Callable[[], bool]] = {
    "database": _database,
    "redis": _redis,
    "migrations": _migrations,
}


class Command(ReportingCommand):
    """Waits for what a process needs, before it is started."""

    help = (
        "Waits until the named services are there: database, redis, migrations (every one applied). Ends with 1, and "
        "says which one was missing, when that takes too long."
    )
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The command's options."""
        parser.add_argument("services", nargs="+", choices=sorted(SERVICES), metavar="service")
        parser.add_argument("--timeout", type=float, default=60.0, help="seconds altogether (default 60)")

    def handle(self, *args: Any, services: list[str], timeout: float, **options: Any) -> None:
        """Waits for one after the other. Raises CommandError."""
        deadline = time.monotonic() + timeout
        for name in services:
            while reason := self._missing(name):
                if time.monotonic() > deadline:
                    raise CommandError(f"{name}: {reason} (waited {timeout:g} s)")
                time.sleep(_POLL_S)
            self.document.setdefault("there", []).append(name)
            self.say(f"{name}: there.")

    def _missing(self, name: str) -> str:
        try:
            return "" if SERVICES[name]() else "not complete"
        except (DatabaseError, PoolTimeout, RedisError, OSError) as error:
            return f"unreachable ({type(error).__name__})"
