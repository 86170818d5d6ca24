"""`/metrics`: who may read it, and that it says what is so."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError
from django.test import Client
from django.utils import timezone
from django_redis import get_redis_connection
from prometheus_client import generate_latest
from pytest_django import DjangoAssertNumQueries, Settings

from generation.attempts import attempt_fail, generation_claim
from generation.choices import CommandKind, DeliveryStatus, ErrorCode, Status, WebhookEvent
from generation.models import Generation, WebhookDelivery, Worker, WorkerCommand
from generation.models.workers import WorkerQuerySet
from generation.orders import command_finish
from generation.services import generation_cancel
from generation.upkeep.sweep import sweep
from imagegen_project.auth.services import token_create
from imagegen_project.common.counters import (
    HASH_KEY,
    PROCESS_REGISTRY,
    SharedCounter,
    SharedHistogram,
    shared_families,
)
from imagegen_project.telemetry.metrics import Metered
from models_registry.models import Checkpoint
from tests.support.endings import succeed
from tests.support.factories import create_generation

pytestmark = pytest.mark.django_db

TOKEN = "only-for-scraping-in-tests"  # noqa: S105
SCRAPER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def owner() -> User:
    return User.objects.create_user("ada")


@pytest.fixture
def worker() -> Worker:
    cached = [
        {"id": "builtin", "tier": "resident", "bytes": 100, "adapters": []},
        {"id": "sd-2-1", "tier": "warm", "bytes": 50, "adapters": []},
    ]
    return Worker.objects.create(
        name="w1",
        hostname="host",
        pid=1,
        device="cpu",
        heartbeat_at=timezone.now(),
        memory_total_mb=1000,
        memory_free_mb=400,
        leaked_mb=3,
        cached_models=cached,
    )


def scrape(client: Client, settings: Settings) -> dict[str, float]:
    """Every sample, under its name and labels as they are written."""
    settings.METRICS_TOKEN = TOKEN
    response = client.get("/metrics", headers=SCRAPER)
    assert response.status_code == 200, response.content
    lines = [line for line in response.content.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_who_may_read_it(client: Client, owner: User, settings: Settings) -> None:
    """Staff, however they come, and the scraper's token; nobody while there is no such token."""
    staff = User.objects.create_user("eve", is_staff=True)
    bearer = {
        user: {"Authorization": f"Bearer {token_create(user=user, expires_in=None)}"}
        for user in (owner, staff)
    }
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers=SCRAPER).status_code == 401
    assert client.get("/metrics", headers=bearer[owner]).status_code == 403
    assert client.get("/metrics/", headers=bearer[staff]).status_code == 200
    settings.METRICS_TOKEN = TOKEN
    assert client.get("/metrics", headers=SCRAPER).status_code == 200
    assert client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}x"}).status_code == 401
    assert client.get("/api/v1/generations", headers=SCRAPER).status_code == 401
    client.force_login(staff)
    assert client.get("/metrics").status_code == 200


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain"),
        ("text/plain;version=0.0.4", "text/plain"),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "application/openmetrics-text"),
        ("application/xml", "text/plain"),
    ],
)
def test_the_scraper_chooses_the_format(
    client: Client, settings: Settings, accept: str, content_type: str
) -> None:
    settings.METRICS_TOKEN = TOKEN
    response = client.get("/metrics", headers=SCRAPER | {"Accept": accept})
    assert response.status_code == 200
    assert response["Content-Type"].startswith(content_type)


def test_the_queue(client: Client, settings: Settings, owner: User) -> None:
    assert scrape(client, settings)["imagegen_queue_oldest_seconds"] == 0
    first = create_generation(owner=owner)
    create_generation(owner=owner)
    create_generation(owner=User.objects.create_user("eve", is_staff=True))
    Generation.objects.filter(pk=first.pk).update(created_at=timezone.now() - timedelta(hours=1))
    found = scrape(client, settings)
    assert found["imagegen_queue_depth"] == 3
    assert 3600 <= found["imagegen_queue_oldest_seconds"] < 7200
    assert found['imagegen_jobs{model="builtin",status="queued",user_class="local"}'] == 2
    assert found['imagegen_jobs{model="builtin",status="queued",user_class="staff"}'] == 1


def test_ended_jobs(
    client: Client,
    settings: Settings,
    owner: User,
    worker: Worker,
    django_capture_on_commit_callbacks: Any,
) -> None:
    """How they ended, and how long they took; the same from every process, also once the rows are deleted."""
    for _ in range(3):
        create_generation(owner=owner)
    receipt: dict[str, Any] = {"request": {}, "model": {}, "environment": {"batch_shape": [2, 3, 256, 256]}}
    first = generation_claim(worker=worker)
    assert first is not None
    assert succeed(first, latency_ms=8000, receipt=receipt)
    second = generation_claim(worker=worker)
    assert second is not None
    with django_capture_on_commit_callbacks(execute=True):
        assert attempt_fail(generation=second, code=ErrorCode.OUT_OF_MEMORY, detail="too large")
        generation_cancel(generation=Generation.objects.get(status=Status.QUEUED))
    Generation.objects.all().delete()

    found = scrape(client, settings)
    ended = {
        re.sub(r".*error_code=\"(\w*)\".*status=\"(\w+)\".*", r"\2:\1", name): value
        for name, value in found.items()
        if name.startswith("imagegen_jobs_ended_total")
    }
    assert ended == {"succeeded:": 1, "failed:out_of_memory": 1, "canceled:": 1}
    assert found['imagegen_job_seconds_bucket{kind="txt2img",le="5",model="builtin"}'] == 0
    assert found['imagegen_job_seconds_bucket{kind="txt2img",le="10",model="builtin"}'] == 1
    assert found['imagegen_job_seconds_sum{kind="txt2img",model="builtin"}'] == 8
    assert found['imagegen_job_step_seconds_sum{model="builtin"}'] == 2
    assert found['imagegen_job_batch_size_bucket{le="2",model="builtin"}'] == 1
    assert found['imagegen_job_batch_size_bucket{le="1",model="builtin"}'] == 0


def test_workers_and_their_caches(client: Client, settings: Settings, worker: Worker) -> None:
    Worker.objects.create(
        name="dead", hostname="h", pid=2, heartbeat_at=timezone.now() - timedelta(minutes=5)
    )
    found = scrape(client, settings)
    assert found['imagegen_worker{device="cpu",status="starting",worker="w1"}'] == 1
    assert not [name for name in found if "dead" in name]
    assert found['imagegen_worker_memory_bytes{worker="w1"}'] == 1000 * 2**20
    assert found['imagegen_worker_memory_free_bytes{worker="w1"}'] == 400 * 2**20
    assert found['imagegen_worker_memory_leaked_bytes{worker="w1"}'] == 3 * 2**20
    assert found['imagegen_cache_bytes{tier="resident",worker="w1"}'] == 100
    assert found['imagegen_cache_models{tier="warm",worker="w1"}'] == 1
    assert found['imagegen_cache_models{tier="loading",worker="w1"}'] == 0


@pytest.mark.django_db(transaction=True)
def test_sweeps_and_orders(client: Client, settings: Settings, owner: User, worker: Worker) -> None:
    """What was put right is counted by whoever did it."""
    create_generation(owner=owner)
    assert generation_claim(worker=worker) is not None
    Generation.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    command = WorkerCommand.objects.create(
        worker=worker, kind=CommandKind.LOAD, checkpoint=Checkpoint.objects.get(id="builtin")
    )
    assert command_finish(command=command, error_code=ErrorCode.ENGINE_ERROR)
    get_redis_connection("default").delete("rq:queue:generations")
    sweep()
    found = scrape(client, settings)
    assert found['imagegen_leases_expired_total{to="queued"}'] == 1
    assert found['imagegen_order_seconds_count{kind="load",model="builtin",status="succeeded"}'] == 1
    assert found['imagegen_rq_entries{queue="generations"}'] == 1


def test_webhooks(client: Client, settings: Settings, owner: User) -> None:
    now = timezone.now()
    for status, finished in (
        (DeliveryStatus.PENDING, None),
        (DeliveryStatus.DELIVERED, now),
        (DeliveryStatus.FAILED, now - timedelta(hours=2)),
    ):
        WebhookDelivery.objects.create(
            owner=owner,
            url="https://example.org",
            event=WebhookEvent.SUCCEEDED,
            payload={},
            status=status,
            finished_at=finished,
            next_attempt_at=now,
        )
    found = scrape(client, settings)
    assert found["imagegen_webhooks_pending"] == 1
    assert found['imagegen_webhooks_last_hour{status="delivered"}'] == 1
    assert 'imagegen_webhooks_last_hour{status="failed"}' not in found


def test_a_scrape_is_few_queries(
    client: Client,
    settings: Settings,
    owner: User,
    worker: Worker,
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    """However much there is."""
    for _ in range(20):
        create_generation(owner=owner)
    with django_assert_max_num_queries(6):
        scrape(client, settings)


def test_what_cannot_be_read_is_left_out(
    client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is away is a sample, not an error."""
    assert scrape(client, settings)['imagegen_up{server="postgresql"}'] == 1

    def away(_: WorkerQuerySet) -> Any:
        raise OperationalError

    monkeypatch.setattr(WorkerQuerySet, "live", away)
    found = scrape(client, settings)
    assert found['imagegen_up{server="postgresql"}'] == 0
    assert found['imagegen_up{server="redis"}'] == 1


def test_shared_counters_add_up_and_survive_old_fields() -> None:
    """A field of an older version, with other labels, is left out."""
    counter = SharedCounter("c", "Things.", ("kind",))
    counter.add("a")
    counter.add("a", amount=2)
    histogram = SharedHistogram("h", "Seconds.", (), (1, 5))
    for seconds in (0.5, 5, 70):
        histogram.observe(seconds)
    get_redis_connection("default").hincrby(HASH_KEY, '["c",["a","b"],""]', 5)
    found, spread = shared_families([counter, histogram])
    assert [(sample.name, sample.labels, sample.value) for sample in found.samples] == [
        ("c_total", {"kind": "a"}, 3)
    ]
    heights = {sample.labels.get("le", sample.name): sample.value for sample in spread.samples}
    assert heights == {"1": 1, "5": 2, "+Inf": 3, "h_count": 3, "h_sum": 75.5}


def test_counting_never_breaks_the_work(settings: Settings) -> None:
    """Redis may be away."""
    settings.CACHES = settings.CACHES | {
        "default": settings.CACHES["default"] | {"LOCATION": "redis://127.0.0.1:1/0"}
    }
    SharedCounter("c", "Things.", ()).add()


async def test_requests_and_sockets_are_measured(client: Client, settings: Settings) -> None:
    """By what they were answered; a refusal outside Django counts too."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope["imagegen.route"] = "here"
            await send({"type": "http.response.start", "status": 413, "headers": []})
            return
        await send({"type": "websocket.close", "code": 4403})

    async def nothing(*args: Any) -> Any:
        return {}

    for scope in (
        {"type": "http", "method": "POST"},
        {"type": "http", "method": "BREW"},
        {"type": "websocket"},
    ):
        await Metered(application)(scope, nothing, nothing)
    text = generate_latest(PROCESS_REGISTRY).decode()
    assert 'imagegen_http_request_seconds_count{method="POST",route="here",status="413"} 1.0' in text
    assert 'imagegen_http_request_seconds_count{method="other",route="here",status="413"} 1.0' in text
    assert 'imagegen_sockets_closed_total{code="4403"} 1.0' in text
    assert "imagegen_sockets_open 0.0" in text
