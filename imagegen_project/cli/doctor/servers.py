"""PostgreSQL and Redis: whether they answer, and whether they are set up as the service needs them."""

import time
from collections.abc import Iterator

import psycopg
import redis as redis_client
from django.conf import settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from generation.queue.overview import database_now
from imagegen_project import env
from imagegen_project.cli.doctor.findings import Finding, fault, first_line, note, ok

_TIMEOUT_S = 5
# Signed addresses, tickets and webhooks' timestamps bear more; beyond it somebody sees what makes no sense.
MOST_SKEW_S = 2.0
_NEARLY_FULL = 0.9
_EMBEDDED = (
    "The embedded one runs with `imagegen demo`: start that, or set {variable} to a server of your own."
)


def postgresql() -> Iterator[Finding]:
    """Whether it answers, with these credentials."""
    options = settings.DATABASES["default"]
    try:
        with psycopg.connect(
            host=options["HOST"],
            port=options["PORT"] or None,
            user=options["USER"],
            password=options["PASSWORD"],
            dbname=options["NAME"],
            connect_timeout=_TIMEOUT_S,
        ) as there:
            row = there.execute("SELECT current_setting('max_connections')::int").fetchone()
            most = int(row[0]) if row else 0
            version = there.info.server_version // 10000
    except (psycopg.Error, OSError) as error:
        said = first_line(error)
        if "password authentication failed" in said:
            remedy = "Correct the password in DATABASE_URL, DATABASE_PASSWORD or DATABASE_PASSWORD_FILE."
        elif "does not exist" in said:
            remedy = "Make the database (`createdb`) or the role, then `imagegen migrate`."
        elif env.DATABASE_URL:
            remedy = "Start PostgreSQL, and check host, port and firewall of DATABASE_URL."
        else:
            remedy = _EMBEDDED.format(variable="DATABASE_URL")
        yield fault("postgresql", f"It cannot be used: {said}", remedy)
        return
    yield ok("postgresql", f"version {version} answers")
    # Web, GPU worker, task worker and webhook worker: the smallest service.
    if most < 4 * env.DB_POOL_SIZE:
        yield note(
            "postgresql connections",
            f"max_connections is {most}, and four processes may take {4 * env.DB_POOL_SIZE} (DB_POOL_SIZE each).",
            "Raise max_connections, or lower DB_POOL_SIZE.",
        )


def migrations() -> Iterator[Finding]:
    """Whether the database is as this program wants it."""
    executor = MigrationExecutor(connection)
    pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
    here = executor.loader.disk_migrations or {}
    # Those that a later one stands for are applied under their own names, too.
    known = {*here, *(name for migration in here.values() for name in migration.replaces)}
    own = {label for label, _ in known}
    newer = [name for name in executor.loader.applied_migrations if name not in known and name[0] in own]
    if newer:
        yield fault(
            "migrations",
            f"The database is newer than this program: it has {_names(newer)}.",
            "Start the newer version of the program, or restore the backup from before the update.",
        )
    if pending:
        yield fault(
            "migrations",
            f"Not applied: {len(pending)} ({_names([(step.app_label, step.name) for step, _ in pending])}).",
            "`imagegen migrate`.",
        )
    if not newer and not pending:
        yield ok("migrations", "all are applied")


def _names(found: list[tuple[str, str]]) -> str:
    shown = [".".join(name) for name in found[:3]]
    return ", ".join([*shown, *(["…"] if len(found) > len(shown) else [])])


def clock() -> Iterator[Finding]:
    """Whether this host and PostgreSQL agree on the time."""
    before = time.time()
    there = database_now().timestamp()
    skew = there - (before + time.time()) / 2
    if abs(skew) > MOST_SKEW_S:
        yield fault(
            "clock",
            f"PostgreSQL's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this host's: ages, "
            "signed addresses and webhooks' timestamps are wrong by as much.",
            "Set both by NTP (`timedatectl set-ntp true`), and start the service's processes again.",
        )
    else:
        yield ok("clock", f"PostgreSQL's is within {MOST_SKEW_S:g} s of this host's")


def redis() -> Iterator[Finding]:
    """Whether it answers, and drops nothing but what has an end."""
    try:
        with redis_client.Redis.from_url(
            settings.REDIS_URL, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
        ) as there:
            memory = there.info("memory")
    except (redis_client.RedisError, OSError, ValueError) as error:
        remedy = "Start Redis, and check host, port, password and firewall of REDIS_URL."
        yield fault(
            "redis",
            f"It cannot be used: {first_line(error)}",
            remedy if env.REDIS_URL else _EMBEDDED.format(variable="REDIS_URL"),
        )
        return
    yield ok("redis", "answers")
    most, policy = int(memory["maxmemory"]), str(memory["maxmemory_policy"])
    if policy.startswith("allkeys"):
        yield fault(
            "redis eviction",
            f"maxmemory-policy is {policy}: a full Redis drops wake-ups and the numbers of feeds.",
            "`redis-cli config set maxmemory-policy volatile-lru`, and the same in redis.conf.",
        )
    elif policy == "noeviction":
        yield note(
            "redis eviction",
            "maxmemory-policy is noeviction: a full Redis refuses feeds, previews and counts until something ends.",
            "`redis-cli config set maxmemory-policy volatile-lru`, and the same in redis.conf.",
        )
    if not most:
        yield note(
            "redis memory",
            "maxmemory is not set: Redis may take all memory of its host.",
            "`redis-cli config set maxmemory 1gb`, and the same in redis.conf.",
        )
    elif int(memory["used_memory"]) > _NEARLY_FULL * most:
        yield fault(
            "redis memory",
            f"It is nearly full: {int(memory['used_memory']) / 2**20:.0f} of {most / 2**20:.0f} MiB.",
            "Raise maxmemory, or lower FEED_TTL_S and FEED_MAX_EVENTS.",
        )
