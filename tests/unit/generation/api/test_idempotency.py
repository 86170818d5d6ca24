"""The same Idempotency-Key makes one generation, however often and from wherever it is sent."""

import asyncio
import io
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import close_old_connections
from django.utils import timezone
from PIL import Image
from rest_framework.test import APIClient

from generation.attempts import generation_claim
from generation.models import Generation, IdempotencyKey, Worker
from generation.services import generation_cancel, generations_abandon
from generation.upkeep.housekeeping import keys_forget
from imagegen_project.auth.services import token_create
from imagegen_project.common.waiting import AFTERWARDS_KEY, Wait
from imagegen_project.server.handler import OneThreadHandler
from tests.support.factories import client_of

BASE = "/api/v1/generations"


def key(value: str = "k1", **more: str) -> dict[str, str]:
    """The header."""
    return {"Idempotency-Key": value, **more}


def test_the_same_request_again_is_answered_as_before(api: APIClient, worker: Worker) -> None:
    """Word for word, whatever has become of the generation since; on either mount."""
    first = api.post(BASE, {"prompt": "a", "seed": 3}, headers=key())
    assert "Idempotency-Replayed" not in first
    generation_claim(worker=worker)
    again = api.post("/v1/generations/", {"seed": 3, "prompt": "a"}, headers=key())
    assert (again.status_code, again.json()) == (202, first.json())
    assert (again["Idempotency-Replayed"], again["Location"]) == ("true", first["Location"])
    assert Generation.objects.count() == 1


def test_another_request_under_the_key_is_a_conflict(api: APIClient) -> None:
    """Another body or another route; the answer names the first job."""
    first = api.post(BASE, {"prompt": "a"}, headers=key()).json()
    for path, body in ((BASE, {"prompt": "b"}), ("/api/v1/generate/txt2img", {"prompt": "a"})):
        response = api.post(path, body, headers=key())
        assert (response.status_code, response.json()["code"]) == (409, "idempotency_conflict")
        assert response.json()["job_id"] == first["id"]
    assert Generation.objects.count() == 1


def test_keys_are_each_users_own(api: APIClient, stranger: User) -> None:
    """Nobody meets somebody else's."""
    mine = api.post(BASE, {"prompt": "a"}, headers=key()).json()
    theirs = client_of(stranger).post(BASE, {"prompt": "a"}, headers=key()).json()
    assert mine["id"] != theirs["id"]


def test_a_refused_request_leaves_nothing(api: APIClient) -> None:
    """The corrected one may use the key."""
    assert api.post(BASE, {"prompt": "a", "steps": 0}, headers=key()).status_code == 400
    assert (
        api.post(BASE, {"prompt": "a", "timeout_s": 99999, "strict": True}, headers=key()).status_code == 422
    )
    assert not IdempotencyKey.objects.exists()
    assert api.post(BASE, {"prompt": "a"}, headers=key()).status_code == 202


def form(colour: str, name: str = "in.png", **fields: Any) -> dict[str, Any]:
    """A multipart request with a picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (256, 256), colour).save(buffer, format="PNG")
    return {"prompt": "a", "image": SimpleUploadedFile(name, buffer.getvalue(), "image/png"), **fields}


def test_forms_count_by_the_content_of_their_files(api: APIClient) -> None:
    """Neither boundaries nor file names do."""
    first = api.post(BASE, form("red"), format="multipart", headers=key())
    assert first.status_code == 202
    again = api.post(BASE, form("red", name="other.png"), format="multipart", headers=key())
    assert again.json()["id"] == first.json()["id"]
    other = api.post(BASE, form("blue"), format="multipart", headers=key())
    assert other.json()["code"] == "idempotency_conflict"


@pytest.mark.parametrize("value", ["", "a b", "é", "x" * 256])
def test_a_header_that_is_no_key_is_refused(api: APIClient, value: str) -> None:
    """By its name."""
    response = api.post(BASE, {"prompt": "a"}, headers=key(value))
    assert response.status_code == 400
    assert response.json()["errors"][0]["param"] == "Idempotency-Key"


def test_retries_and_replays_take_keys_too(api: APIClient) -> None:
    """One new generation each."""
    original = api.post(BASE, {"prompt": "a"}).json()["id"]
    generation_cancel(generation=Generation.objects.get(pk=original))
    path = f"{BASE}/{original}/retry"
    first, again = (api.post(path, headers=key()) for _ in range(2))
    assert first.json() == again.json()
    assert Generation.objects.count() == 2


def test_a_key_ends_after_a_day(api: APIClient) -> None:
    """Then it is as new."""
    first = api.post(BASE, {"prompt": "a"}, headers=key()).json()
    IdempotencyKey.objects.update(created_at=timezone.now() - timedelta(hours=24))
    second = api.post(BASE, {"prompt": "b"}, headers=key()).json()
    assert first["id"] != second["id"]
    IdempotencyKey.objects.update(created_at=timezone.now() - timedelta(hours=24))
    assert keys_forget() == 1


def test_a_deleted_generation_is_not_made_again(api: APIClient) -> None:
    """Nor does the key remember its prompt."""
    first = api.post(BASE, {"prompt": "a secret"}, headers=key()).json()
    api.delete(f"{BASE}/{first['id']}")
    assert "secret" not in json.dumps(IdempotencyKey.objects.values_list("answer", flat=True).get())
    response = api.post(BASE, {"prompt": "a secret"}, headers=key())
    assert (response.status_code, response.json()["code"]) == (404, "generation_not_found")
    assert not Generation.objects.exists()


def test_a_job_that_its_client_hung_up_on_frees_the_key(api: APIClient) -> None:
    """The client saw no answer: when it asks again it wants a picture."""
    first = api.post(BASE, {"prompt": "a", "cancel_on_disconnect": True}, headers=key()).json()
    generations_abandon(ids=[Generation.objects.get().id])
    assert api.get(f"{BASE}/{first['id']}").json()["status"] == "canceled"
    assert (
        api.post(BASE, {"prompt": "a", "cancel_on_disconnect": True}, headers=key()).json()["id"]
        != first["id"]
    )


async def left_to_the_gate(
    path: str, body: dict[str, Any], headers: dict[str, str], token: str
) -> tuple[Any, int]:
    """The wait that one POST through ASGI leaves behind, and its status."""
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    encoded += [(b"content-type", b"application/json"), (b"authorization", f"Bearer {token}".encode())]
    content = json.dumps(body).encode()
    encoded += [(b"host", b"localhost"), (b"content-length", str(len(content)).encode())]
    scope: dict[str, Any] = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": encoded, "scheme": "http", "http_version": "1.1", "server": ("localhost", 80),
    }  # fmt: skip
    messages = [{"type": "http.request", "body": content, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        if messages:
            return messages.pop()
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await OneThreadHandler()(scope, receive, send)
    return scope.get(AFTERWARDS_KEY), sent[0]["status"]


@pytest.fixture
def token(owner: User) -> str:
    """A local token of the owner."""
    return token_create(user=owner, expires_in=None)


@pytest.mark.django_db(transaction=True)
async def test_a_waiting_request_again_waits_for_the_same_generation(token: str) -> None:
    """Its answer says that it is a replay; only the first one's client can cancel by hanging up."""
    body = {"prompt": "a", "cancel_on_disconnect": True}
    path = "/api/v1/generate/txt2img"
    first, status = await left_to_the_gate(path, body, key(), token)
    again, status_again = await left_to_the_gate(path, body, key(), token)
    assert (status, status_again) == (202, 202)
    assert isinstance(first, Wait)
    assert first.cancel_on_disconnect
    assert first.headers == ()
    assert (again.feed_ids, again.render_path) == (first.feed_ids, first.render_path)
    assert not again.cancel_on_disconnect
    assert again.headers == (("Idempotency-Replayed", "true"),)


@pytest.mark.django_db(transaction=True)
def test_fifty_at_once_make_one_generation(owner: User) -> None:
    """And get fifty equal answers."""

    def post(_: int) -> Any:
        try:
            response = client_of(owner).post(BASE, {"prompt": "a"}, headers=key())
            return response.status_code, response.json()
        finally:
            close_old_connections()

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(post, range(50)))
    assert Generation.objects.count() == 1
    assert answers == [answers[0]] * 50
    assert answers[0][0] == 202
