"""What one user may ask for and how much may wait: refused with the reason and a time to come back."""

import base64
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.db import close_old_connections, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings
from rest_framework.test import APIClient
from rest_framework.throttling import ScopedRateThrottle

from generation.attempts import attempt_fail, generation_claim
from generation.choices import ErrorCode
from generation.errors import UserQueueFullError
from generation.models import Generation, WorkEntry, Worker
from generation.queue import limits
from generation.queue.limits import work_forget
from generation.services import generation_cancel, generation_delete
from tests.support.endings import succeed
from tests.support.factories import GenerationMaker, client_of
from tests.support.pictures import encoded, gradient

BASE = "/api/v1/generations"
PER_JOB = 256 * 256 * 4 / 1_000_000
REQUEST = {"prompt": "a", "width": 256, "height": 256, "steps": 4}


def refused(response: Any) -> tuple[int, str]:
    """Status and code of a refusal that says when to come back."""
    assert 1 <= int(response["Retry-After"]) <= 3600
    return response.status_code, response.json()["code"]


def test_one_user_may_have_so_many_waiting(
    api: APIClient, stranger: User, worker: Worker, settings: Settings
) -> None:
    """Running ones do not count, nor do other users'; retries do."""
    settings.MAX_QUEUED_PER_USER = 2
    first = api.post(BASE, REQUEST).json()
    generation_cancel(generation=Generation.objects.get(pk=first["id"]))
    for _ in range(2):
        assert api.post(BASE, REQUEST).status_code == 202
    assert refused(api.post(BASE, REQUEST)) == (429, "user_queue_full")
    assert refused(api.post(f"{BASE}/{first['id']}/retry")) == (429, "user_queue_full")
    assert client_of(stranger).post(BASE, REQUEST).status_code == 202
    generation_claim(worker=worker)
    assert api.post(BASE, REQUEST).status_code == 202


def test_a_refused_user_is_told_when_the_next_should_start(
    api: APIClient, make: GenerationMaker, worker: Worker, settings: Settings
) -> None:
    """As far as it has been measured."""
    make()
    succeed(generation_claim(worker=worker) or make(), latency_ms=40_000)
    make()
    generation_claim(worker=worker)
    make()
    settings.MAX_QUEUED_PER_USER = settings.MAX_QUEUED = 1
    for code in ("user_queue_full", "queue_full"):
        response = api.post(BASE, REQUEST)
        assert response.json()["code"] == code
        assert 30 <= int(response["Retry-After"]) <= 40
        settings.MAX_QUEUED_PER_USER = 0


def test_the_server_takes_so_many(api: APIClient, make: GenerationMaker, settings: Settings) -> None:
    """Whoever they are from."""
    settings.MAX_QUEUED = 1
    make()
    assert refused(api.post(BASE, REQUEST)) == (503, "queue_full")
    assert Generation.objects.count() == 1


def test_work_is_limited_in_a_window(api: APIClient, stranger: User, settings: Settings) -> None:
    """Pixels times steps; what leaves the window makes room."""
    settings.WORK_LIMIT = 2 * PER_JOB
    assert api.post(BASE, REQUEST | {"num_images": 2}).status_code == 202
    assert refused(api.post(BASE, REQUEST)) == (429, "work_limit_reached")
    assert client_of(stranger).post(BASE, REQUEST).status_code == 202
    WorkEntry.objects.update(created_at=timezone.now() - timedelta(seconds=settings.WORK_WINDOW_S - 60))
    assert 55 <= int(api.post(BASE, REQUEST)["Retry-After"]) <= 60
    WorkEntry.objects.update(created_at=timezone.now() - timedelta(seconds=settings.WORK_WINDOW_S))
    assert api.post(BASE, REQUEST).status_code == 202
    assert work_forget() == 2


def test_only_what_never_started_gives_its_work_back(
    make: GenerationMaker, worker: Worker, api: APIClient, settings: Settings
) -> None:
    """Cancelling a queued one does, deleting a finished one does not."""
    settings.WORK_LIMIT = PER_JOB
    generation_cancel(generation=make())
    generation_delete(generation=make())
    make()
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    attempt_fail(generation=claimed, code=ErrorCode.TIMEOUT, detail="late")
    generation_delete(generation=claimed)
    assert refused(api.post(BASE, REQUEST)) == (429, "work_limit_reached")


def test_the_quota_reads_all_of_a_users_rows_once_in_a_while(
    api: APIClient, settings: Settings, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    """And not for each generation: they may be hundreds of thousands."""
    settings.STORAGE_QUOTA_BYTES = 1_000_000
    assert api.post(BASE, REQUEST).status_code == 202  # whatever else is read once
    with CaptureQueriesContext(connection) as known:
        assert api.post(BASE, REQUEST).status_code == 202
    limits._bytes_in_window.cache_clear()
    with django_assert_num_queries(len(known) + 2):
        assert api.post(BASE, REQUEST).status_code == 202


def test_a_users_pictures_have_a_quota(
    make: GenerationMaker, worker: Worker, api: APIClient, settings: Settings
) -> None:
    """Those that were given count like those that were made; deleting makes room."""
    picture = base64.b64encode(encoded(gradient())).decode()
    assert api.post(BASE, {"prompt": "a", "image": picture}).status_code == 202
    given = Generation.objects.get()
    assert given.input_bytes > 0
    succeed(generation_claim(worker=worker) or given)
    made = given.images.get().size_bytes
    settings.STORAGE_QUOTA_BYTES = given.input_bytes + made + 1
    assert api.post(BASE, REQUEST).status_code == 202
    settings.STORAGE_QUOTA_BYTES = given.input_bytes + made
    response = api.post(BASE, REQUEST)
    assert (response.status_code, response.json()["code"]) == (507, "storage_quota_reached")
    generation_delete(generation=given)
    assert api.post(BASE, REQUEST).status_code == 202


def test_zero_is_no_limit(api: APIClient, make: GenerationMaker, settings: Settings) -> None:
    """Of any kind."""
    settings.MAX_QUEUED = settings.MAX_QUEUED_PER_USER = settings.STORAGE_QUOTA_BYTES = 0
    settings.WORK_LIMIT = 0.0
    make()
    assert api.post(BASE, REQUEST).status_code == 202


@pytest.mark.django_db(transaction=True)
def test_requests_at_the_same_moment_keep_to_the_limit(
    make: GenerationMaker, owner: User, settings: Settings
) -> None:
    """Of one user's twelve exactly as many are stored as may wait, each on a turn of its own."""
    settings.MAX_QUEUED_PER_USER = 5

    def attempt(_: int) -> bool:
        try:
            make()
        except UserQueueFullError:
            return False
        finally:
            close_old_connections()
        return True

    with ThreadPoolExecutor(6) as pool:
        stored = list(pool.map(attempt, range(12)))
    assert sum(stored) == 5
    assert sorted(Generation.objects.values_list("turn", flat=True)) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("path", "method", "scope"),
    [
        ("/api/v1/models", "get", "models"),
        ("/api/v1/models/builtin", "get", "models"),
        ("/api/v1/models/load", "post", "orders"),
        ("/api/v1/models/unload", "post", "orders"),
        ("/api/v1/loras/unload", "post", "uploads"),
        ("/api/v1/tickets", "post", "tickets"),
        ("/api/v1/webhook-secret", "post", "tickets"),
        ("/api/v1/loras/upload", "post", "uploads"),
        ("/api/v1/loras/load", "post", "uploads"),
    ],
)
def test_cheap_routes_are_throttled(
    api: APIClient, stranger: User, monkeypatch: pytest.MonkeyPatch, path: str, method: str, scope: str
) -> None:
    """Each user by themselves; with a time to come back."""
    monkeypatch.setitem(ScopedRateThrottle.THROTTLE_RATES, scope, "2/min")
    cache.clear()
    for _ in range(2):
        assert getattr(api, method)(path).status_code != 429
    assert refused(getattr(api, method)(path)) == (429, "throttled")
    assert getattr(client_of(stranger), method)(path).status_code != 429


def test_anonymous_addresses_are_counted_one_by_one(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forged X-Forwarded-For is no new address."""
    monkeypatch.setitem(ScopedRateThrottle.THROTTLE_RATES, "models", "1/min")
    cache.clear()
    assert APIClient().get("/api/v1/models").status_code == 200
    forged = APIClient().get("/api/v1/models", headers={"X-Forwarded-For": "9.9.9.9"})
    assert forged.status_code == 429
    assert APIClient(REMOTE_ADDR="10.0.0.2").get("/api/v1/models").status_code == 200
