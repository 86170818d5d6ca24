"""Signed addresses of pictures: they open without a token, for a while, and nothing else opens by them."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pytest_django import Settings
from rest_framework.test import APIClient

from generation.models import Generation, Worker
from generation.pictures.files import image_read
from generation.services import generation_delete
from imagegen_project.common import signed_addresses
from imagegen_project.telemetry.redaction import REDACTED, Redactor
from tests.support.dialects import finish
from tests.support.factories import GenerationMaker

BASE = "/api/v1/generations"


@pytest.fixture
def drawn(make: GenerationMaker, worker: Worker) -> Generation:
    """A generation with one picture."""
    return finish(make(), worker)


@pytest.fixture
def url(api: APIClient, drawn: Generation) -> str:
    """Its picture's address, as the API tells it."""
    address: str = api.get(f"{BASE}/{drawn.id}").json()["images"][0]["url"]
    return address


@pytest.fixture
def anyone() -> APIClient:
    """A client without credentials."""
    return APIClient()


def age(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Lets that much time pass for addresses."""
    now = signed_addresses.time.time() + seconds

    class Clock:
        time = staticmethod(lambda: now)

    monkeypatch.setattr(signed_addresses, "time", Clock)


def test_it_is_absolute_and_opens_without_a_token(anyone: APIClient, url: str, drawn: Generation) -> None:
    assert url.startswith(f"http://testserver{BASE}/{drawn.id}/images/0?expires=")
    answer = anyone.get(url)
    assert answer.content == image_read(drawn.images.get())
    assert answer["Referrer-Policy"] == "no-referrer"
    assert 3500 < int(answer["Cache-Control"].split("max-age=")[1].split(",")[0]) <= 3660
    # Wrong credentials do no harm, and nor does a slash.
    assert anyone.get(url, headers={"Authorization": "Bearer img_wrong"}).status_code == 200
    assert anyone.get(url.replace("/0?", "/0/?")).status_code == 200


def test_it_expires(api: APIClient, anyone: APIClient, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour later and a minute; for its owner it is still the picture's address."""
    age(monkeypatch, 3590)
    assert anyone.get(url).status_code == 200
    age(monkeypatch, 3670)
    refused = anyone.get(url)
    assert (refused.status_code, refused.json()["code"]) == (403, "address_expired")
    assert api.get(url).status_code == 200


def test_its_life_is_a_setting(
    api: APIClient, anyone: APIClient, drawn: Generation, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.IMAGE_URL_TTL_S = 2
    url = api.get(f"{BASE}/{drawn.id}").json()["images"][0]["url"]
    assert anyone.get(url).status_code == 200
    age(monkeypatch, 3.1)
    assert anyone.get(url).status_code == 403


@pytest.mark.parametrize(
    "change",
    [
        lambda url: url.replace("images/0", "images/1"),
        lambda url: url[:-1] + ("A" if url[-1] != "A" else "B"),
        lambda url: url.replace("expires=", "expires=9"),
        lambda url: url.replace("expires=", "later="),
        lambda url: url.partition("signature=")[0] + "signature=",
        lambda url: url.partition("signature=")[0] + "signature=%ED%A0%80",
        lambda url: url.replace("/api/v1/", "/v1/"),
    ],
    ids=["another picture", "another signature", "later", "no expiry", "empty", "no text", "another route"],
)
def test_nothing_else_opens_by_it(anyone: APIClient, url: str, change: Any) -> None:
    assert anyone.get(change(url)).status_code == 403


def test_other_routes_do_not_know_it(anyone: APIClient, url: str, drawn: Generation) -> None:
    query = urlsplit(url).query
    for path in ("", "/receipt", "/result", "/input"):
        assert anyone.get(f"{BASE}/{drawn.id}{path}?{query}").status_code == 401
    assert anyone.delete(url).status_code == 405


def test_deleting_revokes_it(anyone: APIClient, url: str, drawn: Generation) -> None:
    generation_delete(generation=drawn)
    assert anyone.get(url).status_code == 404


def test_a_former_key_is_good_until_it_is_forgotten(
    api: APIClient, anyone: APIClient, url: str, settings: Settings
) -> None:
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "b" * 60
    assert anyone.get(url).status_code == 200
    new = api.get(urlsplit(url).path.partition("/images")[0]).json()["images"][0]["url"]
    settings.SECRET_KEY_FALLBACKS = []
    assert anyone.get(url).status_code == 403
    assert anyone.get(new).status_code == 200


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-9", (0, 10)),
        ("bytes=10-", (10, None)),
        ("bytes=-7", (-7, None)),
        ("BYTES=5-99999999", (5, None)),
    ],
)
def test_a_range_of_it(anyone: APIClient, url: str, drawn: Generation, asked: str, part: Any) -> None:
    whole = image_read(drawn.images.get())
    answer = anyone.get(url, headers={"Range": asked})
    begin, end, size = whole.index(whole[slice(*part)]), None, len(whole)
    end = begin + len(whole[slice(*part)]) - 1
    assert (answer.status_code, answer.content) == (206, whole[slice(*part)])
    assert answer["Content-Range"] == f"bytes {begin}-{end}/{size}"
    assert answer["Content-Length"] == str(len(answer.content))


def test_ranges_that_cannot_be_met(anyone: APIClient, url: str, drawn: Generation) -> None:
    """Behind the end it is 416; of another version, none, or what is no range: the whole."""
    size = drawn.images.get().size_bytes
    beyond = anyone.get(url, headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond["Content-Range"]) == (416, f"bytes */{size}")
    for asked in (
        {"Range": "bytes=5-4"},
        {"Range": "bytes=-"},
        {"Range": "lines=1-2"},
        {"Range": "bytes=0-1,4-5"},
    ):
        assert len(anyone.get(url, headers=asked).content) == size
    other = {"Range": "bytes=0-1", "If-Range": '"another"'}
    assert anyone.get(url, headers=other).status_code == 200
    same = {"Range": "bytes=0-1", "If-Range": anyone.get(url)["ETag"]}
    assert anyone.get(url, headers=same).status_code == 206


def test_its_head(anyone: APIClient, url: str, drawn: Generation) -> None:
    answer = anyone.head(url)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer["Content-Length"] == str(drawn.images.get().size_bytes)
    assert (answer["Accept-Ranges"], answer["Content-Type"]) == ("bytes", "image/png")


def test_where_clients_reach_the_service(
    api: APIClient, drawn: Generation, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the request says, behind a proxy that ends TLS as that says; PUBLIC_URL is stronger."""
    settings.ALLOWED_HOSTS = ["images.example.com"]
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

    def shown() -> str:
        headers = {"Host": "images.example.com", "X-Forwarded-Proto": "https"}
        found: str = api.get(f"{BASE}/{drawn.id}", headers=headers).json()["images"][0]["url"]
        return found

    assert shown().startswith("https://images.example.com/api/")
    settings.PUBLIC_URL = "https://example.org/draw"
    assert shown().startswith("https://example.org/draw/api/")


def test_the_log_does_not_have_it(url: str) -> None:
    (signature,) = parse_qs(urlsplit(url).query)["signature"]
    redacted = Redactor()(f"GET {url} failed")
    assert signature not in redacted
    assert REDACTED in redacted
