"""Who sends a body, by every credential there is, before anything of it is stored."""

from base64 import b64encode
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import Settings

from imagegen_project.auth.services import token_create
from imagegen_project.server.bodies import Head, Refusal
from imagegen_project.server.senders import sender

pytestmark = pytest.mark.django_db(transaction=True, serialized_rollback=True)


def head(*headers: tuple[bytes, bytes]) -> Head:
    """A request's head from one address."""
    return Head("POST", "/api/v1/generations", list(headers), ("10.0.0.1", 5), 1_000_000)


@pytest.fixture
def token(owner: User) -> str:
    """A local token of the owner."""
    return token_create(user=owner, expires_in=None)


async def test_a_token_is_its_users(owner: User, token: str) -> None:
    """In a Bearer header, or as the password of HTTP Basic."""
    basic = b64encode(f"anything:{token}".encode())
    assert await sender(head((b"authorization", b"Bearer " + token.encode()))) == owner.pk
    assert await sender(head((b"authorization", b"Basic " + basic))) == owner.pk


@pytest.fixture
def cookie(owner: User) -> bytes:
    """What the owner's browser sends once it is logged in."""
    client = Client()
    client.force_login(owner)
    return f"sessionid={client.cookies['sessionid'].value}".encode()


async def test_a_session_is_its_users(owner: User, cookie: bytes) -> None:
    """As pages have it."""
    assert await sender(head((b"cookie", cookie))) == owner.pk


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([], "not_authenticated"),
        ([(b"cookie", b"csrftoken=abc")], "not_authenticated"),
        ([(b"cookie", b"sessionid=abcdefghijklmnopqrstuvwxyz012345")], "not_authenticated"),
        ([(b"authorization", b"Bearer img_unknown")], "invalid_token"),
        ([(b"authorization", b"Bearer !")], "invalid_token"),
        ([(b"authorization", b"Basic !")], "invalid_token"),
        ([(b"authorization", b"Digest x")], "not_authenticated"),
    ],
)
async def test_whoever_is_nobody_is_refused(headers: list[tuple[bytes, bytes]], code: str) -> None:
    """401, with the challenge that the views give."""
    refusal: Any = await sender(head(*headers))
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (401, code)
    assert refusal.headers["WWW-Authenticate"].startswith("Bearer")


async def test_guessing_has_its_limit_here_too(settings: Settings, empty_redis: object) -> None:
    """429, before a credential is looked at."""
    settings.AUTH_FAILURES = 2
    for number in range(3):
        refusal = await sender(head((b"authorization", b"Bearer img_guess%d" % number)))
    assert (refusal.status, refusal.code) == (429, "too_many_failures")
    assert "Retry-After" in refusal.headers
