"""Who sends a body, by every credential there is, before anything of it is stored."""

from base64 import b64encode
from ipaddress import ip_network
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import Settings

from imagegen_project.auth.services import token_create
from imagegen_project.server.bodies import Head, Refusal
from imagegen_project.server.senders import sender

pytestmark = pytest.mark.django_db(transaction=True)


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


@pytest.fixture
def guest(settings: Settings) -> User:
    """Who comes without credentials."""
    return User.objects.create_user(settings.A1111_OPEN_USER)


@pytest.mark.parametrize("credentials", [(), ((b"authorization", b"Basic Og=="),)])
async def test_open_networks_may_send_pictures(
    settings: Settings, guest: User, credentials: tuple[tuple[bytes, bytes], ...]
) -> None:
    """As the views let them in: on A1111's paths, straight from there, under a listed name, and from no other page."""
    settings.A1111_OPEN_NETWORKS, settings.ALLOWED_HOSTS = [ip_network("10.0.0.0/8")], ["images.example"]
    host = (b"host", b"images.example")
    path = "/sdapi/v1/img2img"

    def asked(*headers: tuple[bytes, bytes], at: str = path, client: str = "10.0.0.1") -> Head:
        return Head("POST", at, [*credentials, *headers], (client, 5), 1_000_000)

    assert await sender(asked(host)) == guest.pk
    for refused in (
        asked(host, at="/api/v1/generations"),
        asked(host, client="192.0.2.1"),
        asked((b"host", b"other.example")),
        asked(host, (b"x-forwarded-for", b"10.0.0.1")),
        asked(host, (b"origin", b"https://other.example")),
        asked(host, (b"sec-fetch-site", b"cross-site")),
    ):
        assert isinstance(await sender(refused), Refusal)


async def test_a1111s_refusal_names_both_ways() -> None:
    """Its clients know HTTP Basic alone."""
    refusal: Any = await sender(Head("POST", "/sdapi/v1/img2img", [], ("10.0.0.1", 5), 1_000_000))
    assert refusal.headers["WWW-Authenticate"] == 'Basic realm="imagegen", Bearer realm="imagegen"'
    assert "HTTP Basic" in refusal.detail


async def test_guessing_has_its_limit_here_too(settings: Settings, empty_redis: object) -> None:
    """429, before a credential is looked at."""
    settings.AUTH_FAILURES = 2
    for number in range(3):
        refusal = await sender(head((b"authorization", b"Bearer img_guess%d" % number)))
    assert (refusal.status, refusal.code) == (429, "too_many_failures")
    assert "Retry-After" in refusal.headers
