"""The pages to sign in and out: by password, by token, by a link that works once."""

import re
from datetime import timedelta
from typing import Any
from urllib.parse import unquote

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django_redis import get_redis_connection
from knox.models import AuthToken
from pytest_django import Settings

from imagegen_project.auth.services import token_create
from imagegen_project.auth.sessions import SessionStore
from imagegen_project.auth.tickets import LINK_TTL_S, link_create
from imagegen_project.telemetry.redaction import Redactor
from tests.support.hub import HubDouble, whoami

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery staple"  # noqa: S105
ME = "/api/v1/capabilities"


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", password=PASSWORD)


def sign_in(client: Client, **form: str) -> Any:
    return client.post("/sign-in/", {"username": "ada", "password": PASSWORD} | form)


def by_token(client: Client, token: str, **form: str) -> Any:
    return client.post("/sign-in/", {"token": token} | form)


def said(answer: Any) -> str:
    """What the page says is wrong."""
    return " ".join(re.findall(r'<ul class="errorlist[^>]*>(.*?)</ul>', answer.content.decode(), re.DOTALL))


def is_in(client: Client) -> bool:
    return client.get(ME).status_code == 200


def test_a_password_opens_the_page_and_sign_out_closes_it(client: Client, ada: User) -> None:
    """Nobody without staff rights lands in the admin or on Swagger."""
    answer = sign_in(client)
    assert (answer.status_code, answer["Location"]) == (302, "/")
    assert is_in(client)
    assert client.get("/sign-out/").status_code == 405
    assert client.post("/sign-out/")["Location"] == "/sign-in/"
    assert not is_in(client)


def test_a_wrong_password_is_said_in_a_sentence(client: Client, ada: User) -> None:
    """The name stays in its field, the password does not."""
    answer = sign_in(client, password="wr0ng")  # noqa: S106
    assert answer.status_code == 400
    assert "do not belong together" in said(answer)
    assert 'value="ada"' in answer.content.decode()
    assert "wr0ng" not in answer.content.decode()


@pytest.mark.parametrize("way", ["password", "token"])
def test_too_many_tries_say_how_long_to_wait(client: Client, ada: User, settings: Settings, way: str) -> None:
    """With the right password, too: nobody has looked at it."""
    settings.AUTH_FAILURES = 2
    for number in range(2):
        assert by_token(client, f"img_wrong{number}").status_code == 400
    answer = (
        sign_in(client) if way == "password" else by_token(client, token_create(user=ada, expires_in=None))
    )
    assert answer.status_code == 429
    assert re.search(r"Wait [1-9]\d? seconds", said(answer))


@pytest.mark.parametrize(
    ("wanted", "location"),
    [
        ("/gallery/?q=a", "/gallery/?q=a"),
        ("https://evil.example/", "/"),
        ("//evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("http://testserver/account/", "http://testserver/account/"),
        ("", "/"),
    ],
)
def test_next_stays_on_this_site(client: Client, ada: User, wanted: str, location: str) -> None:
    assert sign_in(client, next=wanted)["Location"] == location
    assert client.get("/sign-in/", {"next": wanted})["Location"] == location


def test_a_local_token_opens_a_session_that_ends_with_it(client: Client, ada: User) -> None:
    """Revoked or expired; the session's row has no token in it."""
    for end in ("revoked", "expired"):
        token = token_create(user=ada, expires_in=timedelta(hours=1))
        assert by_token(client, f" Bearer {token} ")["Location"] == "/"
        assert is_in(client)
        assert token[4:] not in str(SessionStore(client.session.session_key).load())
        if end == "revoked":
            AuthToken.objects.all().delete()
        else:
            AuthToken.objects.update(expiry="2020-01-01T00:00:00Z")
        assert not is_in(client)


def test_who_signs_in_again_with_the_password_needs_the_token_no_more(client: Client, ada: User) -> None:
    """Nor is he held to what a token may."""
    by_token(client, token_create(user=ada, expires_in=None))
    sign_in(client)
    AuthToken.objects.all().delete()
    assert is_in(client)
    assert client.post("/api/v1/tokens").status_code == 201


def test_a_hub_token_opens_a_session(client: Client, hub: HubDouble) -> None:
    """Of the account's user, for a day."""
    hub.tokens["hf_good"] = whoami()
    assert by_token(client, "hf_good").status_code == 302
    assert is_in(client)
    assert client.session.get_expiry_age() <= 24 * 3600
    assert "hf_good" not in str(dict(client.session))


def test_what_is_wrong_with_a_token_is_said(client: Client, hub: HubDouble) -> None:
    """Unknown, no token at all, or nobody can say."""
    assert "unknown or expired" in said(by_token(client, "img_nobodys"))
    assert "no token as it was issued" in said(by_token(client, "a b"))
    assert "does not know this token" in said(by_token(client, "hf_nobodys"))
    hub.mode = "500"
    answer = by_token(client, "hf_other")
    assert answer.status_code == 503
    assert "Hub cannot say now" in said(answer)


@pytest.mark.parametrize("door", ["/admin/", "/admin/generation/generation/"])
def test_staff_reach_the_admin_with_the_same_session(client: Client, ada: User, door: str) -> None:
    """Others are told, and not sent round in a circle."""
    asked = client.get(door, follow=True)
    assert unquote(asked.redirect_chain[-1][0]) == f"/sign-in/?next={door}"
    assert sign_in(client, next=door)["Location"] == door
    refused = client.get(door, follow=True)
    assert "no staff rights" in refused.content.decode()
    User.objects.filter(pk=ada.pk).update(is_staff=True, is_superuser=True)
    assert client.get(door).status_code == 200
    mistyped = client.post("/sign-in/", {"username": "ada", "password": "wrong", "next": door})
    assert "no staff rights" not in mistyped.content.decode()


def test_pages_hold_no_script_and_no_style_and_are_kept_by_nobody(client: Client, ada: User) -> None:
    for path in ("/sign-in/", f"/sign-in/once/{link_create(user=ada)}/"):
        answer = client.get(path)
        assert "style-src 'self';" in f"{answer['Content-Security-Policy']};"
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script", answer.content.decode())
        assert "no-store" in answer["Cache-Control"]


def test_forms_are_protected_against_other_sites(ada: User) -> None:
    client = Client(enforce_csrf_checks=True)
    for path in ("/sign-in/", f"/sign-in/once/{link_create(user=ada)}/", "/sign-out/"):
        assert client.post(path, {"username": "ada", "password": PASSWORD}).status_code == 403


def test_a_link_signs_in_once(client: Client, ada: User) -> None:
    """By a POST: whoever looks at it uses nothing up."""
    path = f"/sign-in/once/{link_create(user=ada)}/"
    for _ in range(2):
        page = client.get(path)
        assert page["Referrer-Policy"] == "strict-origin"
        assert "Sign in as ada?" in page.content.decode()
    assert not is_in(client)
    assert client.post(path)["Location"] == "/"
    assert is_in(client)
    other = Client()
    for answer in (other.get(path), other.post(path)):
        assert answer.status_code == 404
        assert "does not work any more" in answer.content.decode()
    assert not is_in(other)


def test_a_link_ends_by_itself(client: Client, ada: User, settings: Settings) -> None:
    """Redis holds no more than its digest; without Redis nobody is let in."""
    nonce = link_create(user=ada)
    redis = get_redis_connection("default")
    (key,) = redis.scan_iter("imagegen:link:*")
    assert 0 < redis.ttl(key) <= LINK_TTL_S
    assert nonce.encode() not in key
    User.objects.filter(pk=ada.pk).update(is_active=False)
    assert client.post(f"/sign-in/once/{nonce}/").status_code == 404
    settings.CACHES = {"default": settings.CACHES["default"] | {"LOCATION": "redis://127.0.0.1:1/0"}}
    for answer in (client.get(f"/sign-in/once/{nonce}/"), client.post(f"/sign-in/once/{nonce}/")):
        assert answer.status_code == 503


@pytest.mark.parametrize("end", ["/", "", '"', "/?a=b", "\\n"])
def test_a_link_is_no_line_in_a_log(end: str) -> None:
    line = Redactor()(f'{{"path": "/sign-in/once/Abc-_123{end}"}}')
    assert "Abc" not in line
    assert "/sign-in/once/[redacted]" in line
