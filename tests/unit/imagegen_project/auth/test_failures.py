"""Who tries credentials is slowed down; who shares an address with them is not locked out."""

import re

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django_redis import get_redis_connection
from pytest_django import Settings
from rest_framework.test import APIClient

from imagegen_project.auth.failures import client_address
from imagegen_project.auth.services import token_create
from imagegen_project.auth.websocket import SocketAuthMiddleware
from tests.support.hub import HubDouble

pytestmark = pytest.mark.django_db

LIMIT = 3
PASSWORD = "correct horse battery staple"  # noqa: S105


@pytest.fixture(autouse=True)
def _limit(settings: Settings) -> None:
    settings.AUTH_FAILURES = LIMIT


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def fail(bare_api: APIClient, *, times: int = LIMIT, address: str = "192.0.2.1") -> list[int]:
    return [
        bare_api.get("/whoami", headers=bearer(f"img_wrong{number}"), REMOTE_ADDR=address).status_code
        for number in range(times)
    ]


def test_an_address_that_guesses_is_refused(bare_api: APIClient) -> None:
    """Every bad token counts, and other addresses go on."""
    assert fail(bare_api) == [401] * LIMIT
    refused = bare_api.get("/whoami", headers=bearer("img_another"), REMOTE_ADDR="192.0.2.1")
    assert refused.status_code == 429
    assert refused.json()["code"] == "too_many_failures"
    assert int(refused["Retry-After"]) > 0
    assert bare_api.get("/whoami", headers=bearer("img_another"), REMOTE_ADDR="192.0.2.2").status_code == 401


def test_a_refused_address_costs_the_hub_nothing(bare_api: APIClient, hub: HubDouble) -> None:
    fail(bare_api)
    asked = len(hub.requests)
    assert bare_api.get("/whoami", headers=bearer("hf_guess"), REMOTE_ADDR="192.0.2.1").status_code == 429
    assert len(hub.requests) == asked


def test_a_token_that_worked_still_works_beside_a_guesser(bare_api: APIClient) -> None:
    """One that nobody has seen waits."""
    user = User.objects.create_user("ada")
    known, new = (token_create(user=user, expires_in=None) for _ in range(2))
    assert bare_api.get("/whoami", headers=bearer(known), REMOTE_ADDR="192.0.2.9").status_code == 200
    fail(bare_api)
    assert bare_api.get("/whoami", headers=bearer(known), REMOTE_ADDR="192.0.2.1").status_code == 200
    assert bare_api.get("/whoami", headers=bearer(new), REMOTE_ADDR="192.0.2.1").status_code == 429


def test_one_bad_token_is_refused_from_everywhere(bare_api: APIClient) -> None:
    """A client that was left behind with a revoked token."""
    for number in range(LIMIT):
        address = f"198.51.100.{number}"
        assert bare_api.get("/whoami", headers=bearer("img_revoked"), REMOTE_ADDR=address).status_code == 401
    assert (
        bare_api.get("/whoami", headers=bearer("img_revoked"), REMOTE_ADDR="198.51.100.99").status_code == 429
    )


def test_a_failure_is_forgotten_in_time(bare_api: APIClient) -> None:
    """Counting never goes on for ever: each count has an end from its first failure on."""
    fail(bare_api, times=LIMIT + 2)
    redis = get_redis_connection("default")
    keys = list(redis.scan_iter("imagegen:auth:failed:*"))
    assert keys
    assert all(0 < redis.ttl(key) <= 60 for key in keys)


def test_success_is_no_failure(bare_api: APIClient) -> None:
    token = token_create(user=User.objects.create_user("ada"), expires_in=None)
    for _ in range(LIMIT + 2):
        assert bare_api.get("/whoami", headers=bearer(token)).status_code == 200
    assert not list(get_redis_connection("default").scan_iter("imagegen:auth:failed:*"))


def test_no_limit_and_no_redis(bare_api: APIClient, settings: Settings) -> None:
    """Both leave the door to the tokens alone."""
    settings.AUTH_FAILURES = 0
    assert fail(bare_api, times=LIMIT + 2) == [401] * (LIMIT + 2)
    settings.AUTH_FAILURES = LIMIT
    settings.CACHES = {"default": settings.CACHES["default"] | {"LOCATION": "redis://127.0.0.1:1/0"}}
    assert fail(bare_api, times=LIMIT + 2) == [401] * (LIMIT + 2)


def test_redis_holds_no_credential(bare_api: APIClient) -> None:
    bare_api.get("/whoami", headers=bearer("img_secretguess"))
    redis = get_redis_connection("default")
    keys = b"".join(redis.scan_iter("*"))
    assert b"failed" in keys
    assert b"secretguess" not in keys


@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        (0, "203.0.113.7", "10.0.0.1"),
        (1, "203.0.113.7", "203.0.113.7"),
        (1, "1.1.1.1, 203.0.113.7", "203.0.113.7"),
        (2, "1.1.1.1, 203.0.113.7, 10.0.0.2", "203.0.113.7"),
        (2, "203.0.113.7", "203.0.113.7"),
        (1, "", "10.0.0.1"),
        (1, " , ", "10.0.0.1"),
    ],
)
def test_only_trusted_proxies_name_addresses(
    settings: Settings, proxies: int, forwarded: str, address: str
) -> None:
    """What a client writes into the header itself is not believed."""
    settings.TRUSTED_PROXIES = proxies
    assert client_address(peer="10.0.0.1", forwarded_for=forwarded) == address


def test_passwords_are_guessed_slowly(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """On the page to sign in; from elsewhere the owner gets in. What was not looked at is not called wrong."""
    User.objects.create_superuser("root", password=PASSWORD)

    def login(password: str, address: str) -> str:
        """What the page says; nothing where it let in."""
        form = {"username": "root", "password": password}
        answer = client.post("/sign-in/", form, REMOTE_ADDR=address)
        return "" if answer.status_code == 302 else answer.content.decode()

    for _ in range(LIMIT):
        said = login("wrong", "192.0.2.1")
        assert "do not belong together" in said
        assert "Too many" not in said
    assert "too many failures" not in caplog.messages
    said = login(PASSWORD, "192.0.2.1")
    assert "Too many tries" in said
    assert "do not belong" not in said
    assert re.search(r"Wait [1-9]\d? seconds", said)
    (line,) = [record for record in caplog.records if record.message == "too many failures"]
    assert line.address == "192.0.2.1"
    assert login(PASSWORD, "192.0.2.2") == ""


@pytest.mark.django_db(transaction=True)
async def test_sockets_count_too() -> None:
    """A guess is a guess at whichever door."""
    seen = []

    async def consumer(scope: dict[str, object], receive: object, send: object) -> None:
        seen.append((scope["user"], scope["auth_error"]))

    async def nothing(*args: object) -> dict[str, object]:
        return {}

    for number in range(LIMIT + 1):
        headers = [(b"authorization", f"Bearer img_guess{number}".encode())]
        scope = {"type": "websocket", "headers": headers, "client": ("192.0.2.1", 5)}
        await SocketAuthMiddleware(consumer)(scope, nothing, nothing)  # type: ignore[arg-type]
    assert [error for _, error in seen[:-1]] == [None] * LIMIT
    assert getattr(seen[-1][1], "code", None) == "too_many_failures"
