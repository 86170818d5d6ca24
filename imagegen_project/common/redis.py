"""Redis, where it is more than a cache."""

import functools
from typing import Any

from django.conf import settings
from django_redis import get_redis_connection


@functools.cache
def _client(_location: str) -> Any:
    return get_redis_connection("default")


def redis_client() -> Any:
    """The cache's Redis, by one client for all threads: making one for each request takes longer than its questions."""
    return _client(str(settings.CACHES["default"]["LOCATION"]))
