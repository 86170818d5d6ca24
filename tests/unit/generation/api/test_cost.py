"""What requests cost: questions to PostgreSQL and round trips to Redis, which hang on no machine."""

from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_redis import get_redis_connection
from pytest_django import DjangoCaptureOnCommitCallbacks
from rest_framework.test import APIClient

from generation.attempts import generation_claim
from generation.models import Generation, WorkEntry, Worker
from generation.queue.entries import queue_length
from generation.queue.standing import queue_standing
from generation.requests.serializers import GenerationCreateIn
from imagegen_project.auth.services import token_create
from tests.support.endings import succeed
from tests.support.factories import GenerationMaker, make_worker

BASE = "/api/v1/generations"
REQUEST = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 4}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What goes to Redis, a round trip each."""
    trips: list[bytes] = []
    send = redis.connection.AbstractConnection.send_packed_command

    def noted(self: Any, command: Any, *args: Any, **kwargs: Any) -> Any:
        trips.append(command if isinstance(command, bytes) else b"".join(command))
        return send(self, command, *args, **kwargs)

    monkeypatch.setattr(redis.connection.AbstractConnection, "send_packed_command", noted)
    return trips


def asked(queries: CaptureQueriesContext) -> list[str]:
    """The statements, without those that only mark a place in the test's own transaction."""
    return [sql for query in queries if not (sql := str(query["sql"])).startswith(("SAVEPOINT", "RELEASE"))]


@pytest.mark.usefixtures("empty_redis", "worker")
def test_a_creation_asks_postgresql_three_times_and_redis_once(
    owner: User,
    make: GenerationMaker,
    sent: list[bytes],
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    """With a token, limits, and others in the queue; its event, its entry and its place are there as ever."""
    client = APIClient(headers={"Authorization": f"Bearer {token_create(user=owner, expires_in=None)}"})
    make()
    with django_capture_on_commit_callbacks(execute=True):
        assert client.post(BASE, REQUEST).status_code == 202  # what is remembered from then on
    entries = queue_length()
    sent.clear()
    with CaptureQueriesContext(connection) as queries, django_capture_on_commit_callbacks(execute=True):
        answer = client.post(BASE, REQUEST)
    body = answer.json()
    assert answer.status_code == 202
    assert len(asked(queries)) == 3, asked(queries)
    assert len(sent) == 1, sent
    assert (body["queue_position"], body["images"], body["loras"]) == (3, [], [])
    stored = Generation.objects.get(pk=body["id"])
    assert stored.turn == 3
    assert client.get(f"{BASE}/{stored.id}").json() == body
    assert WorkEntry.objects.get(generation_id=stored.id).pixel_steps == stored.pixel_steps
    assert queue_length() == entries + 1
    ((_, event),) = get_redis_connection("default").xrange(f"imagegen:feed:{stored.id}")
    assert b'"type":"queued"' in event[b"data"]


def test_a_place_is_one_question_however_many_models_wait(
    make: GenerationMaker, worker: Worker, api: APIClient
) -> None:
    """And its answer that of the creation."""
    for _ in range(2):
        make()
    assert succeed(generation_claim(worker=worker) or make(), latency_ms=2000)
    body = api.post(BASE, REQUEST).json()
    make(checkpoint=Generation.objects.get(pk=body["id"]).checkpoint, priority=1)
    with CaptureQueriesContext(connection) as queries:
        standing = queue_standing(Generation.objects.select_related("checkpoint").get(pk=body["id"]))
    assert len(queries) == 2
    assert standing is not None
    assert (body["queue_position"], standing.position) == (2, 3)
    assert body["estimated_start_at"] is not None
    assert standing.starts_at is not None


@pytest.mark.parametrize("path", [BASE, f"{BASE}?fields=id,images", "/api/v1/models", "detail", "image"])
def test_reading_costs_the_same_for_many(
    path: str, api: APIClient, make: GenerationMaker, worker: Worker
) -> None:
    """Rows, their pictures, and workers."""

    def draw(count: int) -> None:
        for _ in range(count):
            make(num_images=2)
            assert succeed(generation_claim(worker=worker) or make())

    counts = []
    for number in range(1, 3):
        draw(2)
        make_worker(f"another-{number}")
        newest = Generation.objects.latest("id").id
        address = {"detail": f"{BASE}/{newest}", "image": f"{BASE}/{newest}/images/0"}.get(path, path)
        with CaptureQueriesContext(connection) as queries:
            assert api.get(address).status_code == 200
        counts.append(len(queries))
    assert counts[0] == counts[1] <= 4, counts


def test_a_picture_is_one_question(api: APIClient, make: GenerationMaker, worker: Worker) -> None:
    """Which reads of its generation only what its name takes; by its signed address, too."""
    make()
    assert succeed(generation_claim(worker=worker) or make())
    (picture,) = api.get(BASE).json()["results"][0]["images"]
    address = picture["url"].partition("?")[0]
    for client, asked_for in ((api, address), (APIClient(), picture["url"])):
        with CaptureQueriesContext(connection) as queries:
            assert client.get(asked_for).status_code == 200
        (sql,) = asked(queries)
        assert "prompt" in sql
        assert "receipt" not in sql


def test_what_one_door_does_not_require_another_still_does(api: APIClient, owner: User) -> None:
    """Fields are made once for all requests."""
    other_door = GenerationCreateIn(data={}, context={"owner": owner, "prompt_required": False})
    assert other_door.is_valid(), other_door.errors
    assert api.post(BASE, {}).json()["errors"][0]["param"] == "prompt"


def test_a_token_that_worked_is_looked_at_without_redis_until_it_fails(
    owner: User, sent: list[bytes], empty_redis: object
) -> None:
    """Then it is counted again."""
    client = APIClient(headers={"Authorization": f"Bearer {token_create(user=owner, expires_in=None)}"})
    assert client.get("/api/v1/me").status_code == 200
    sent.clear()
    assert client.get("/api/v1/me").status_code == 200
    assert not sent
    owner.is_active = False
    owner.save()
    for _ in range(2):
        assert client.get("/api/v1/me").status_code == 401
    assert any(b"imagegen:auth:failed:token" in trip for trip in sent)
    assert any(b"MGET" in trip for trip in sent)
