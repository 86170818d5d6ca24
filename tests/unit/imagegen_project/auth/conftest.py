"""A Hub of the tests' own, and the routes that they ask."""

from collections.abc import Iterator

import pytest
from django.core.cache import cache
from pytest_django import Settings
from rest_framework.test import APIClient

from tests.support.hub import HubDouble


@pytest.fixture
def hub(settings: Settings, empty_redis: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    """A Hub that knows no token yet, which the settings point to; nothing is cached."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # a proxy of the machine's is not in question
    double = HubDouble()
    settings.HF_ENDPOINT = double.url
    settings.HUB_TIMEOUT_S = 0.5
    cache.clear()
    yield double
    double.stop()


@pytest.fixture
def bare_api(settings: Settings) -> APIClient:
    """A client of the routes in tests/unit/imagegen_project/auth/urls.py."""
    settings.ROOT_URLCONF = "tests.unit.imagegen_project.auth.urls"
    return APIClient(raise_request_exception=True)
