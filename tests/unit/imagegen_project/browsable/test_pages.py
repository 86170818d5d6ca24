"""The API's pages as the server gives them: forms for whatever takes a body, and answers that lead on."""

import base64
import io
import re
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from generation.attempts import generation_claim
from generation.choices import Status
from generation.models import Generation, Worker
from imagegen_project.browsable.shown import json_html, pictures_of
from imagegen_project.openapi.operations import OPERATIONS, RED_SQUARE
from tests.support.endings import succeed
from tests.support.factories import GenerationMaker

pytestmark = pytest.mark.django_db
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
NO_ID = "00000000-0000-0000-0000-000000000000"
# Fields that must be in a route's form, beside the button.
FORMS: dict[str, tuple[str, ...]] = {
    "/api/v1/generate/txt2img": ("prompt", "model", "loras", "scheduler"),
    "/api/v1/generate/img2img": ("prompt", "image", "mask_image", "images", "strength"),
    "/api/v1/generations": ("prompt", "image", "loras", "webhook_events"),
    "/api/v1/generations/delete": ("ids",),
    "/api/v1/models/load": ("model", "workers"),
    "/api/v1/models/unload": ("model", "workers"),
    "/api/v1/loras/upload": ("file", "name", "trigger_words"),
    "/api/v1/loras/load": ("lora_path", "weight_name"),
    "/api/v1/loras/unload": ("lora",),
    "/api/v1/png-info": ("image",),
    "/api/v1/tokens": ("name", "expires_in_days"),
    "/api/v1/tickets": (),
    "/api/v1/webhook-secret": (),
    "/api/v1/generations/{id}": ("favorite",),
    "/api/v1/generations/{id}/cancel": (),
    "/api/v1/generations/{id}/retry": (),
    "/api/v1/generations/{id}/replay": (),
    "/api/v1/generations/{id}/shares": ("show_prompt",),
}


@pytest.fixture
def visitor(client: Client, owner: User) -> Client:
    client.force_login(owner)
    return client


def page(visitor: Client, path: str, status: int = 200) -> str:
    answer = visitor.get(path, headers=HTML)
    assert (answer.status_code, answer["Content-Type"]) == (status, "text/html; charset=utf-8"), path
    return answer.content.decode()


def post(visitor: Client, path: str, **fields: Any) -> tuple[int, str]:
    answer = visitor.post(path, fields, headers=HTML)
    return answer.status_code, unescape(answer.content.decode())


@pytest.fixture
def drawn(make: GenerationMaker, worker: Worker) -> Generation:
    make()
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    assert succeed(claimed)
    return claimed


@pytest.mark.parametrize("path", FORMS)
def test_whatever_takes_a_body_has_its_form(visitor: Client, make: GenerationMaker, path: str) -> None:
    """Also where the route only takes a POST; and nothing in the page is a script or a style."""
    html = page(visitor, path.replace("{id}", str(make().id)))
    names = re.findall(r'<(?:input|select|textarea)[^>]* name="([a-z_]+)"', html)
    assert set(FORMS[path]) <= set(names)
    assert "<button>POST</button>" in html or "<button>PATCH</button>" in html
    assert ('type="file"' in html) == (bool({"image", "file"} & set(names)))
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)
    assert 'lang="en' in html
    assert 'name="viewport"' in html
    assert "imagegen</title>" in html
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_the_forms_are_those_of_all_operations_with_a_body() -> None:
    taking = {
        re.sub(r"\{generation_id\}", "{id}", key.partition(" ")[2])
        for key in OPERATIONS
        if key.startswith(("POST", "PATCH"))
    }
    assert taking == set(FORMS)


def test_clients_of_the_api_are_still_refused(visitor: Client) -> None:
    answer = visitor.get("/api/v1/generate/txt2img")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")


def test_a_form_left_as_it_is_asks_for_nothing_special(visitor: Client) -> None:
    """Every field is sent as the page fills it in, files that nobody chose as empty texts: no warning comes."""
    html = page(visitor, "/api/v1/generations")
    form = html.partition('id="post"')[2].partition("</form>")[0]
    fields = dict(re.findall(r'<input type="(?:text|number)"[^>]* name="(\w+)" value="([^"]*)"', form))
    for name, options in re.findall(r'<select[^>]* name="(\w+)".*?>(.*?)</select>', form, flags=re.DOTALL):
        chosen = re.search(r'value="([^"]*)" selected', options) or re.search(r'value="([^"]*)"', options)
        assert chosen
        fields[name] = chosen[1]
    areas = re.findall(r'<textarea[^>]* name="(\w+)"', form)
    files = re.findall(r'<input type="file"[^>]* name="(\w+)"', form)
    assert {"loras", "webhook_events"} <= set(areas)
    assert set(files) == {"image", "mask_image", "images"}
    assert {"seed", "num_images", "output_quality", "width", "model"} <= set(fields)
    status, said = post(
        visitor,
        "/api/v1/generations",
        **fields | dict.fromkeys([*areas, *files], "") | {"prompt": "a red circle"},
    )
    assert status == 202, said
    generation = Generation.objects.get()
    assert (generation.warnings, generation.num_images, generation.status) == ([], 1, Status.QUEUED)


def test_what_was_sent_is_kept_beside_what_is_wrong(visitor: Client) -> None:
    """At the fields to blame, also those that were folded."""
    status, html = post(
        visitor,
        "/api/v1/generations",
        prompt='a "red" circle',
        width="9",
        scheduler="dpmpp_2m",
        loras='[{"lora": "nobody"}]',
        image=io.BytesIO(b"no picture"),
        favourite="1",
    )
    assert status == 400
    assert 'a "red" circle</textarea>' in html
    assert re.search(r'name="width" value="9"[^>]*aria-invalid="true"', html)
    assert '[{"lora": "nobody"}]</textarea>' in html
    assert '<option value="dpmpp_2m" selected>' in html
    assert 'class="field file wrong"' in html
    assert "Unknown field" in html.partition('class="note bad"')[2]
    assert "<details open>" in html.partition('class="body"')[2]


def test_loras_and_files_can_be_posted_by_hand(visitor: Client, worker: Worker) -> None:
    """LoRA as JSON text, ids one below the other."""
    status, html = post(
        visitor,
        "/api/v1/generations",
        prompt="a red circle",
        width="256",
        height="256",
        loras='[{"lora": "outline", "scale": 0.5}]',
    )
    assert status == 202, html
    generation = Generation.objects.get()
    assert generation.adapters.get().scale == 0.5
    status, html = post(visitor, "/api/v1/generations/delete", ids=f"{generation.id},\n {NO_ID}")
    assert status == 200, html
    assert not Generation.objects.exists()


def test_an_answer_leads_on(visitor: Client, drawn: Generation, make: GenerationMaker) -> None:
    """Pictures are shown; rows, addresses and what the state allows can be clicked."""
    html = page(visitor, "/api/v1/generations")
    assert f'<a href="/api/v1/generations/{drawn.id}">a red circle (succeeded)</a>' in html
    detail = page(visitor, f"/api/v1/generations/{drawn.id}")
    address = f"/api/v1/generations/{drawn.id}"
    assert re.search(rf'<img src="{address}/images/0\?[^"]*width=256"', detail)
    assert f'action="{address}/retry"' in detail
    assert f'action="{address}/replay"' in detail
    assert f'action="{address}/cancel"' not in detail
    assert f'<a href="{address}/receipt">' in detail
    assert 'data-method="DELETE"' in detail
    waits = page(visitor, f"/api/v1/generations/{make().id}")
    assert "/cancel" in waits
    assert "/retry" not in waits
    assert "/replay" not in waits


def test_base64_is_cut_and_the_picture_shown(visitor: Client, drawn: Generation) -> None:
    html = page(visitor, f"/api/v1/generations/{drawn.id}/result")
    assert f'<img src="/api/v1/generations/{drawn.id}/images/0' in html
    (shown,) = pictures_of({"images": [{"b64_json": RED_SQUARE}]})
    assert shown.source == f"data:image/png;base64,{RED_SQUARE}"
    assert "4,000 characters" in json_html({"b64_json": "A" * 4_000})


def test_what_was_deleted_is_not_offered_to_be_deleted(visitor: Client, make: GenerationMaker) -> None:
    answer = visitor.delete(f"/api/v1/generations/{make().id}", headers=HTML)
    html = answer.content.decode()
    assert (answer.status_code, "<strong>204</strong>" in html) == (200, True)
    assert 'data-method="DELETE"' not in html


def test_what_was_made_can_be_opened(visitor: Client) -> None:
    answer = visitor.post(
        "/api/v1/generations", {"prompt": "a", "width": "256", "height": "256"}, headers=HTML
    )
    assert f'<a href="/api/v1/generations/{Generation.objects.get().id}">' in answer.content.decode()


def test_models_can_be_opened_from_their_list(visitor: Client) -> None:
    assert '<a href="/api/v1/models/builtin">' in page(visitor, "/api/v1/models")


def test_filters_say_what_they_do(visitor: Client) -> None:
    html = page(visitor, "/api/v1/generations?kind=txt2img&created_after=")
    assert "is greater than" not in html
    assert "Made at this moment or later" in html
    assert '<option value="txt2img" selected>' in html


def test_the_root_leads_everywhere(visitor: Client) -> None:
    """Every native route that needs no id, and the documents."""
    root = visitor.get("/api/v1/").json()
    paths = {address.partition("testserver")[2] for address in root.values()}
    native = {key.partition(" ")[2] for key in OPERATIONS if "{" not in key}
    assert native | {"/api/docs", "/api/schema", "/api/asyncapi"} == paths
    for path in paths - {"/api/schema"}:
        assert visitor.get(path, headers=HTML).status_code == 200, path


@pytest.mark.parametrize(
    ("typed", "address"),
    [
        ("/admin", "/admin/"),
        ("/docs", "/api/docs/"),
        ("/api/v1", "/api/v1/"),
        ("/favicon.ico", "/static/icon.svg"),
    ],
)
def test_what_people_type_leads_on(client: Client, typed: str, address: str) -> None:
    answer = client.get(typed, headers=HTML)
    assert (answer.status_code, answer["Location"]) == (302, address)


@pytest.mark.parametrize("path", ["/nothing", "/api/v1/nothing", "/s/nothing/"])
def test_errors_are_pages_for_browsers(client: Client, path: str) -> None:
    """And problems for everybody else."""
    html = page(client, path, 404)
    assert "There is no such thing here" in html
    assert client.get(path).json()["code"] == "not_found"


def test_a_form_without_its_token_is_explained(owner: User) -> None:
    strict = Client(enforce_csrf_checks=True)
    answer = strict.post("/sign-in/", {"username": "a", "password": "b"}, headers=HTML)
    assert answer.status_code == 403
    assert "load the page again" in answer.content.decode()


def test_a_stranger_is_led_to_the_sign_in(client: Client) -> None:
    html = page(client, "/api/v1/generations", 401)
    assert 'href="/sign-in/?next=/api/v1/generations"' in html
    assert "<button>POST</button>" not in html


def test_a_prompt_is_text_on_the_page(visitor: Client, make: GenerationMaker) -> None:
    nasty = "<script>alert(1)</script>"
    generation = make(prompt=nasty)
    assert nasty not in page(visitor, f"/api/v1/generations/{generation.id}")
    assert nasty not in page(visitor, "/api/v1/generations")


def test_png_info_takes_a_form_and_text(visitor: Client) -> None:
    status, html = post(visitor, "/api/v1/png-info", image=io.BytesIO(base64.b64decode(RED_SQUARE)))
    assert status == 200, html


def test_an_empty_format_is_none_that_there_is(visitor: Client) -> None:
    assert visitor.get("/api/v1/usage/?format=json").status_code == 200
    for name in ("", "yaml"):
        assert visitor.get("/api/v1/usage/", {"format": name}).status_code == 404
