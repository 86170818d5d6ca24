"""One's own tokens by the API: made in a session, seen without their digests, revoked."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from knox.models import AuthToken
from rest_framework.test import APIClient

from imagegen_project.auth import services
from imagegen_project.auth.models import LocalToken
from imagegen_project.auth.services import token_create
from tests.support.hub import HubDouble, whoami

pytestmark = pytest.mark.django_db

TOKENS = "/api/v1/tokens"


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", password="pass")  # noqa: S106


@pytest.fixture
def page(ada: User) -> Client:
    """Her browser, signed in with the password."""
    client = Client()
    client.post("/sign-in/", {"username": "ada", "password": "pass"})
    return client


def make(client: Client, **body: Any) -> Any:
    return client.post(TOKENS, body, content_type="application/json")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_session_makes_a_token_that_is_shown_once(page: Client, ada: User) -> None:
    """With a name and an end; what is listed of it later is no secret, nor made from one."""
    answer = make(page, name="laptop", expires_in_days=7)
    assert (answer.status_code, answer["Cache-Control"]) == (201, "no-store")
    token = answer.json()["value"]
    assert APIClient().get("/api/v1/me", headers=bearer(token)).json()["username"] == "ada"
    listed = page.get(TOKENS)
    (row,) = listed.json()["results"]
    assert set(row) == {"id", "name", "created_at", "expires_at", "last_used_at"}
    assert row["name"] == "laptop"
    stored = AuthToken.objects.get()
    assert stored.expiry - timezone.now() < timedelta(days=7)
    for secret in (token[4:], stored.digest, stored.token_key):
        assert secret not in listed.content.decode()


def test_a_token_without_an_end(page: Client) -> None:
    assert make(page, expires_in_days=None).json()["expires_at"] is None


@pytest.mark.parametrize(
    ("body", "blamed"),
    [({"expires_in_days": 0}, "expires_in_days"), ({"name": "x" * 101}, "name"), ({"user": "root"}, "user")],
)
def test_what_is_no_token_is_refused(page: Client, body: dict[str, Any], blamed: str) -> None:
    answer = make(page, **body)
    assert (answer.status_code, answer.json()["errors"][0]["param"]) == (400, blamed)


def test_a_token_makes_none(ada: User, hub: HubDouble) -> None:
    """Nor does the session that it began; one of the Hub's is who one is, and its session may."""
    token = token_create(user=ada, expires_in=None)
    refused = APIClient().post(TOKENS, {}, headers=bearer(token))
    assert (refused.status_code, refused.json()["code"]) == (403, "session_required")
    client = Client()
    client.post("/sign-in/", {"token": token})
    assert make(client).json()["code"] == "session_required"
    hub.tokens["hf_good"] = whoami()
    client = Client()
    client.post("/sign-in/", {"token": "hf_good"})
    assert make(client).status_code == 201


def test_a_revoked_token_opens_nothing(page: Client, stranger: User) -> None:
    """Only its owner can do it, once."""
    made = make(page).json()
    token, number = made["value"], made["id"]
    foreign = Client()
    foreign.force_login(stranger)
    assert foreign.delete(f"{TOKENS}/{number}").json()["code"] == "token_not_found"
    assert page.delete(f"{TOKENS}/{number}/").status_code == 204
    assert page.delete(f"{TOKENS}/{number}").status_code == 404
    assert APIClient().get("/api/v1/me", headers=bearer(token)).status_code == 401
    assert not LocalToken.objects.exists()


def test_its_last_use_is_noted_once_a_minute(ada: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read must not become a write each time."""
    token = token_create(user=ada, expires_in=None)
    clock = [1000.0]
    monkeypatch.setattr(services.time, "monotonic", lambda: clock[0])
    seen = []
    for passed in (0, 30, 31):
        clock[0] += passed
        assert APIClient().get("/api/v1/me", headers=bearer(token)).status_code == 200
        seen.append(LocalToken.objects.get().last_used_at)
    assert seen[0] is not None
    assert seen[0] == seen[1] < seen[2]


def test_nobody_has_too_many(page: Client, ada: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "MAX_TOKENS", 1)
    assert make(page).status_code == 201
    assert (make(page).status_code, make(page).json()["code"]) == (409, "too_many_tokens")
    assert token_create(user=ada, expires_in=None), "the operator's command is not held to it"
