"""Who may use A1111's dialect: tokens in HTTP Basic, and the networks that an operator opens."""

import base64
from ipaddress import ip_network
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from rest_framework.test import APIClient

from generation.models import Generation
from imagegen_project.auth.checks import open_networks
from imagegen_project.auth.services import token_create
from imagegen_project.env import _networks
from tests.unit.generation.compat.test_a1111 import BASE, REQUEST, URL

pytestmark = pytest.mark.django_db


def basic(credentials: str) -> dict[str, str]:
    """The header."""
    return {"authorization": "Basic " + base64.b64encode(credentials.encode()).decode()}


def test_basic_authentication_with_a_token(owner: User) -> None:
    """As the password whatever the name, or as the name whatever the password; what is no token is 401."""
    token = token_create(user=owner, expires_in=None)
    for credentials, status in (
        (f"anyone:{token}", 200),
        (f":{token}", 200),
        (f"{token}:", 200),
        (token, 200),
        (f"{token}:anything", 200),
        ("anyone:img_wrong", 401),
        ("anyone:", 401),
        ("two words:two words", 401),
        ("ä:ö", 401),
        (":", 401),
        ("", 401),
    ):
        answer = APIClient().get(f"{BASE}/progress", headers=basic(credentials))
        assert answer.status_code == status, credentials
    for header in ("Basic", "Basic !!!"):
        assert APIClient().get(f"{BASE}/progress", headers={"authorization": header}).status_code == 401


@pytest.mark.parametrize("headers", [{}, basic("anyone:img_wrong")])
def test_a_refusal_names_both_ways(headers: dict[str, str]) -> None:
    answer = APIClient().post(URL, REQUEST, headers=headers)
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == 'Basic realm="imagegen", Bearer realm="imagegen"'
    body = answer.json()
    assert set(body) == {"error", "detail", "body", "errors"}
    assert "Bearer <token>" in body["detail"]
    assert "HTTP Basic" in body["detail"]


@pytest.fixture
def opened(settings: Any) -> None:
    """A service that loopback may use without credentials."""
    settings.A1111_OPEN_NETWORKS = [ip_network("127.0.0.0/8"), ip_network("::1/128")]
    settings.ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", "testserver"]


def asked(path: str = f"{BASE}/progress", **meta: str) -> int:
    """The status of a request without credentials."""
    return (
        Client().get(path, **{"HTTP_HOST": "127.0.0.1:8000", "REMOTE_ADDR": "127.0.0.1"} | meta).status_code
    )


def test_it_is_closed_by_default(settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["127.0.0.1"]
    assert settings.A1111_OPEN_NETWORKS == []
    assert asked() == 401
    assert not User.objects.filter(username=settings.A1111_OPEN_USER).exists()


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"REMOTE_ADDR": "::1"},
        {"REMOTE_ADDR": "::ffff:127.0.0.1"},
        {"HTTP_HOST": "localhost"},
        {"HTTP_ORIGIN": "http://127.0.0.1:8000"},
        {"HTTP_SEC_FETCH_SITE": "same-origin"},
        {"HTTP_SEC_FETCH_SITE": "none"},
        {"HTTP_AUTHORIZATION": "Basic "},
        {"HTTP_AUTHORIZATION": "Basic Og=="},
    ],
    ids=repr,
)
def test_an_open_network_needs_no_credentials(opened: None, meta: dict[str, str]) -> None:
    assert asked(**meta) == 200


@pytest.mark.parametrize(
    "meta",
    [
        {"REMOTE_ADDR": "192.168.1.7"},
        {"REMOTE_ADDR": ""},
        {"HTTP_ORIGIN": "https://evil.example"},
        {"HTTP_ORIGIN": "http://127.0.0.1:3000"},
        {"HTTP_ORIGIN": "null"},
        {"HTTP_SEC_FETCH_SITE": "cross-site"},
        {"HTTP_SEC_FETCH_SITE": "same-site"},
        {"HTTP_X_FORWARDED_FOR": "127.0.0.1"},
        {"HTTP_X_FORWARDED_PROTO": "http"},
        {"HTTP_X_FORWARDED_HOST": "127.0.0.1"},
        {"HTTP_FORWARDED": "for=127.0.0.1"},
        {"HTTP_VIA": "1.1 proxy"},
        {"HTTP_X_REAL_IP": "127.0.0.1"},
        {"HTTP_CF_CONNECTING_IP": "127.0.0.1"},
        {"HTTP_AUTHORIZATION": "Basic " + base64.b64encode(b"a:img_wrong").decode()},
        {"HTTP_AUTHORIZATION": "Bearer img_wrong"},
    ],
    ids=repr,
)
def test_nobody_else_is_let_in(opened: None, meta: dict[str, str]) -> None:
    assert asked(**meta) == 401


def test_a_host_must_be_listed(opened: None, settings: Any) -> None:
    """Also where every host is answered: any page can have a name that leads here."""
    assert asked(HTTP_HOST="rebound.example") == 400
    settings.ALLOWED_HOSTS = ["*"]
    assert asked(HTTP_HOST="rebound.example") == 401
    assert asked(HTTP_HOST="127.0.0.1") == 401
    settings.ALLOWED_HOSTS = ["*", "127.0.0.1"]
    assert asked(HTTP_HOST="127.0.0.1") == 200


@pytest.mark.parametrize("path", ["/api/v1/generations", "/v1/images/generations", "/admin/", "/metrics"])
def test_no_other_door_is_open(opened: None, path: str) -> None:
    assert asked(path) in (302, 401, 403, 405)
    assert asked("/api/v1/generations") == 401


def test_all_are_one_user_without_powers(opened: None, settings: Any) -> None:
    settings.A1111_OPEN_USER = "guests"
    answer = Client().post(
        URL, REQUEST, content_type="application/json", HTTP_HOST="127.0.0.1", REMOTE_ADDR="127.0.0.1"
    )
    assert answer.status_code == 202, answer.content
    owner = Generation.objects.get().owner
    assert (owner.username, owner.is_staff, owner.is_superuser) == ("guests", False, False)
    assert not owner.has_usable_password()
    User.objects.update(is_active=False)
    assert asked() == 401


def test_the_operator_is_warned(settings: Any) -> None:
    """imagegen.W004, while a network is open."""
    assert open_networks() == []
    settings.A1111_OPEN_NETWORKS = [ip_network("10.0.0.0/8")]
    (message,) = open_networks()
    assert message.id == "imagegen.W004"
    assert "10.0.0.0/8" in message.msg


def test_networks_are_read_when_the_service_starts() -> None:
    """What is none stops it, with the variable's name."""
    assert _networks("loopback") == [ip_network("127.0.0.0/8"), ip_network("::1/128")]
    assert _networks(" 192.168.1.0/24") == [ip_network("192.168.1.0/24")]
    for text in ("everyone", "192.168.1.7/24", ""):
        with pytest.raises(ValueError, match="A1111_OPEN_NETWORKS"):
            _networks(text)
