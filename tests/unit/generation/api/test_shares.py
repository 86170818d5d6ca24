"""Links to pictures, and where a generation's answer leads."""

import dataclasses
import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from PIL.PngImagePlugin import PngInfo
from pytest_django import DjangoAssertNumQueries
from rest_framework.test import APIClient

from generation import services
from generation.attempts import generation_claim
from generation.models import Generation, Share, Worker
from generation.services import generation_cancel, generation_delete
from imagegen_project.telemetry.redaction import Redactor
from tests.support.endings import drawn_picture, succeed
from tests.support.factories import GenerationMaker, client_of
from tests.support.pictures import decoded, encoded, gradient

SITE = "http://testserver"


@pytest.fixture
def generation(make: GenerationMaker, worker: Worker) -> Generation:
    """One that succeeded."""
    make(prompt="a <secret> circle")
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    assert succeed(claimed)
    claimed.refresh_from_db()
    return claimed


def shared(api: APIClient, generation: Generation, **body: Any) -> dict[str, Any]:
    answer = api.post(f"{generation.get_absolute_url()}/shares/", body)
    assert answer.status_code == 201, answer.content
    made: dict[str, Any] = answer.json()
    return made


def pictures(page: str) -> list[str]:
    return re.findall(r'<img src="(/s/[^"]+)"', page)


def test_a_stranger_sees_what_was_shared(api: APIClient, generation: Generation, client: Client) -> None:
    """The picture, and the prompt only where its owner wants that; robots and caches keep away."""
    bare, told = shared(api, generation), shared(api, generation, show_prompt=True)
    for share, words in ((bare, False), (told, True)):
        page = client.get(share["url"])
        html = page.content.decode()
        assert ("a &lt;secret&gt; circle" in html) is words
        assert "<secret>" not in html
        assert 'content="noindex, nofollow"' in html
        assert (page["X-Robots-Tag"], page["Referrer-Policy"]) == ("noindex, nofollow", "strict-origin")
        assert page["Cache-Control"] == "no-store"
        assert "style-src 'self';" in f"{page['Content-Security-Policy']};"
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script", html)
        (picture,) = pictures(html)
        file = client.get(picture)
        assert file.content == api.get(f"{generation.get_absolute_url()}/images/0").content
        assert "max-age=60" in file["Cache-Control"]
        assert client.get(f"{picture}?width=128")["Content-Type"] == "image/webp"
        assert client.get(picture[:-1] + "1").status_code == 404


def test_a_picture_tells_no_more_than_its_page(
    api: APIClient, make: GenerationMaker, worker: Worker, client: Client
) -> None:
    """Its notes and its name say what was asked for, and so they go only where the page does."""
    make(prompt="a secret circle")
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    notes = PngInfo()
    notes.add_text("parameters", "a secret circle")
    data = encoded(gradient(), "PNG", pnginfo=notes)
    assert succeed(claimed, images=[dataclasses.replace(drawn_picture(), data=data)])
    for show_prompt in (True, False):
        share = shared(api, claimed, show_prompt=show_prompt)
        (picture,) = pictures(client.get(share["url"]).content.decode())
        file = client.get(picture)
        assert (b"a secret circle" in file.content) is show_prompt
        for answer in (file, client.get(f"{picture}?width=128")):
            assert ("secret" in answer["Content-Disposition"]) is show_prompt
        assert decoded(file.content).tobytes() == decoded(data).tobytes()
        assert client.get(picture, headers={"if-none-match": file["ETag"]}).status_code == 304


@pytest.mark.parametrize("end", ["one", "all", "deleted"])
def test_a_link_dies(api: APIClient, generation: Generation, client: Client, end: str) -> None:
    """With its revocation or its generation, page and picture; the others stay."""
    share, other = shared(api, generation), shared(api, generation)
    (picture,) = pictures(client.get(share["url"]).content.decode())
    address = f"{generation.get_absolute_url()}/shares"
    if end == "one":
        assert api.delete(f"{address}/{share['id']}").status_code == 204
        assert api.delete(f"{address}/{share['id']}").json()["code"] == "share_not_found"
    elif end == "all":
        assert api.delete(address).status_code == 204
    else:
        generation_delete(generation=generation)
    page = client.get(share["url"])
    assert (page.status_code, pictures(page.content.decode())) == (404, [])
    assert "This link has ended" in page.content.decode()
    assert client.get(picture).status_code == 404
    assert client.get(other["url"]).status_code == (200 if end == "one" else 404)


def test_links_are_listed(api: APIClient, generation: Generation) -> None:
    """For their owner, in the order in which they were made."""
    made = [shared(api, generation), shared(api, generation, show_prompt=True)]
    assert api.get(f"{generation.get_absolute_url()}/shares").json()["results"] == made


def test_a_link_cannot_be_guessed(client: Client, api: APIClient, generation: Generation) -> None:
    """Not from its id, nor from another one's signature."""
    first, second = (shared(api, generation)["url"].rstrip("/") for _ in range(2))
    forged = first.rpartition(".")[0] + "." + second.rpartition(".")[2]
    assert client.get(f"{forged}/").status_code == 404
    assert Redactor()(f'"path": "{first.removeprefix(SITE)}/0"') == '"path": "/s/[redacted]/0"'


def test_only_pictures_can_be_shared_and_not_without_end(
    api: APIClient,
    make: GenerationMaker,
    generation: Generation,
    stranger: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queued = f"{make().get_absolute_url()}/shares"
    assert (api.post(queued, {}).status_code, api.post(queued, {}).json()["code"]) == (
        409,
        "nothing_to_share",
    )
    monkeypatch.setattr(services, "MAX_SHARES", 1)
    shared(api, generation)
    address = f"{generation.get_absolute_url()}/shares"
    assert api.post(address, {}).json()["code"] == "too_many_shares"
    assert api.post(address, {"public": True}).json()["errors"][0]["param"] == "public"
    assert client_of(stranger).post(address, {}).status_code == 404
    assert Share.objects.count() == 1


def test_a_page_costs_few_queries(
    api: APIClient, generation: Generation, client: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    """The link with its generation, and the pictures."""
    share = shared(api, generation)
    with django_assert_num_queries(2):
        client.get(share["url"])


ALWAYS = {"self", "events", "feed"}


def test_addresses_are_absolute_and_follow_the_state(
    api: APIClient, make: GenerationMaker, generation: Generation
) -> None:
    """Whatever is named can be asked; what the state does not allow is not named."""
    canceled = make()
    queued = api.get(canceled.get_absolute_url()).json()["urls"]
    assert set(queued) == ALWAYS | {"cancel"}
    generation_cancel(generation=canceled)
    assert set(api.get(canceled.get_absolute_url()).json()["urls"]) == ALWAYS | {"retry"}
    urls = api.get(generation.get_absolute_url()).json()["urls"]
    assert set(urls) == ALWAYS | {"retry", "replay", "result", "receipt", "shares", "images"}
    assert urls["feed"] == f"ws://testserver/ws/generations/{generation.id}/"
    assert urls["self"] == f"{SITE}{generation.get_absolute_url()}"
    for name in ("self", "result", "receipt", "shares"):
        assert api.get(urls[name]).status_code == 200
    for name in ("retry", "replay"):
        assert api.post(urls[name]).status_code == 202
    assert [client.get(url).status_code for client in (api, APIClient()) for url in urls["images"]] == [
        200,
        200,
    ]
