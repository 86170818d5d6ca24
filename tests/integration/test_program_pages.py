"""The product's own pages, as the server gives them."""

import gzip
import re
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from pytest_django import Settings

from imagegen_project.pages import STATIC, modules

pytestmark = pytest.mark.django_db
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
PAGES = ["/", "/gallery/", "/gallery/01a2186c-0513-7350-bbc5-5f57c7333697/", "/account/"]
MOST_FIRST_LOAD_BYTES = 150_000


@pytest.fixture
def visitor(client: Client) -> Client:
    client.force_login(User.objects.create_user("ada"))
    return client


@pytest.mark.parametrize("path", PAGES)
def test_a_stranger_signs_in_first_and_comes_back(client: Client, path: str) -> None:
    answer = client.get(path, headers=BROWSER)
    assert answer.status_code == 302
    assert answer["Location"] == f"{settings.LOGIN_URL}?next={path}"


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_one_program_without_scripts_or_styles_in_it(visitor: Client, path: str) -> None:
    """As the policy wants it; it brings the cookie that its requests need."""
    answer = visitor.get(path, headers=BROWSER)
    html = answer.content.decode()
    assert answer.status_code == 200
    policy = answer["Content-Security-Policy"]
    assert "style-src 'self';" in f"{policy};"
    assert "script-src 'self';" in f"{policy};"
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)
    assert 'lang="en' in html
    assert 'name="viewport"' in html
    assert visitor.cookies["csrftoken"]


@pytest.mark.parametrize("accept", ["application/json", "*/*", ""])
def test_a_client_of_the_api_is_led_to_the_documentation(visitor: Client, accept: str) -> None:
    answer = visitor.get("/", headers={"Accept": accept})
    assert (answer.status_code, answer["Location"]) == (302, "/api/docs/")


def test_collected_files_are_packed(tmp_path: Path, settings: Settings) -> None:
    """Once, so that nobody waits for it."""
    settings.STATIC_ROOT = tmp_path
    call_command("collectstatic", interactive=False, verbosity=0)
    for name in ("vendor/pico/pico.min.css", "js/page/app.js", "vendor/lucide/icons.svg"):
        assert gzip.decompress((tmp_path / f"{name}.gz").read_bytes()) == (STATIC / name).read_bytes()


def test_files_that_nobody_collected_are_packed_too(client: Client) -> None:
    """For who can unpack them, and what is not packed already; what a browser has it is not sent again."""
    path = "js/page/app.js"
    packed = client.get(f"/static/{path}", headers={"Accept-Encoding": "gzip, br"})
    plain = client.get(f"/static/{path}")
    assert (
        gzip.decompress(packed.content) == b"".join(plain.streaming_content) == (STATIC / path).read_bytes()
    )
    assert [one.headers.get("Content-Encoding") for one in (packed, plain)] == ["gzip", None]
    assert [one["Vary"] for one in (packed, plain)] == ["Accept-Encoding"] * 2
    assert packed["Content-Length"] == str(len(packed.content))
    again = {"Accept-Encoding": "gzip", "If-None-Match": packed["ETag"]}
    assert client.get(f"/static/{path}", headers=again).status_code == 304
    picture = client.get("/static/examples/pink-star.webp", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in picture.headers
    picture.close()


def imported(file: Path) -> set[str]:
    """The modules that one imports at once."""
    found = re.findall(r'^(?:import|export) [^;]*?"(\.[^"]+)";', file.read_text(), flags=re.MULTILINE)
    return {str((file.parent / path).resolve().relative_to(STATIC)) for path in found}


def test_the_first_load_is_small(visitor: Client) -> None:
    """The page, its styles, its program with all that it imports, and its icons, compressed."""
    html = visitor.get("/", headers=BROWSER).content
    wanted = set(re.findall(r'(?:href|src)="/static/([^"]+)"', html.decode()))
    waiting = [path for path in wanted if path.endswith(".js")]
    while waiting:
        for path in imported(STATIC / waiting.pop()) - wanted:
            wanted.add(path)
            waiting.append(path)
    wanted.add("vendor/lucide/icons.svg")
    size = sum(len(gzip.compress((STATIC / path).read_bytes())) for path in wanted) + len(gzip.compress(html))
    assert size <= MOST_FIRST_LOAD_BYTES
    # Each file of the program is asked for at once, not when the one before it has come.
    assert {path for path in wanted if path.startswith("js/")} <= {"js/main.js", *modules()}
