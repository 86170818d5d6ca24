"""The client of Redis that all of a process shares."""

from concurrent.futures import ThreadPoolExecutor
from contextvars import Context

from pytest_django import Settings

from imagegen_project.common.redis import redis_client


def test_there_is_one_client_for_all_threads_and_requests_of_one_address(settings: Settings) -> None:
    one = redis_client()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(Context().run, redis_client).result() is one
    settings.CACHES = {"default": settings.CACHES["default"] | {"LOCATION": "redis://127.0.0.1:1/0"}}
    assert redis_client() is not one
