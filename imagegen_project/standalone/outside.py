"""PostgreSQL and Redis that somebody else runs: whether they can be used."""

import psycopg
import redis

from imagegen_project.standalone.service import StandaloneError

_SERVER_TIMEOUT_S = 5


def check_database(url: str) -> None:
    """Raises StandaloneError where the PostgreSQL of DATABASE_URL cannot be used."""
    try:
        psycopg.connect(url, connect_timeout=_SERVER_TIMEOUT_S).close()
    except psycopg.Error as error:
        reason = str(error).strip().splitlines()[0]
        raise StandaloneError(f"The database of DATABASE_URL cannot be used: {reason}") from error


def check_redis(url: str) -> None:
    """Raises StandaloneError where the Redis of REDIS_URL cannot be used."""
    try:
        with redis.Redis.from_url(
            url, socket_timeout=_SERVER_TIMEOUT_S, socket_connect_timeout=_SERVER_TIMEOUT_S
        ) as client:
            client.ping()
    except (redis.RedisError, ValueError) as error:
        raise StandaloneError(f"The Redis of REDIS_URL cannot be used: {error}") from error
