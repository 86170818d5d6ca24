"""What the API says of itself: every operation has its line and an example, and every example runs as it stands."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone
from PIL import Image

from generation.choices import Kind
from generation.feed.messages import EVENT_FIELDS, EventType
from generation.models import Worker
from imagegen_project.openapi.dialects import EXAMPLES, dialect_routes
from imagegen_project.openapi.events import asyncapi_document
from imagegen_project.openapi.hooks import METHODS, refusal_statuses
from imagegen_project.openapi.operations import OPERATIONS
from tests.support.factories import create_generation
from tests.support.lora_files import lora_bytes
from tests.support.openapi import openapi_document
from tests.support.pictures import encoded
from tests.unit.test_authorisation import World, put_back

REFERENCE = (Path(__file__).resolve().parents[4] / "API_REFERENCE.md").read_text()


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in openapi_document()["paths"].items():
        for method in METHODS:
            if method in item:
                yield method, path, item[method]


def test_the_table_has_every_operation() -> None:
    """And no other; each has one line, which is its own."""
    native = {f"{method.upper()} {path}" for method, path, _ in operations() if path.startswith("/api/v1")}
    assert native == set(OPERATIONS)
    summaries = [operation["summary"] for _, path, operation in operations() if path.startswith("/api/v1")]
    assert len(set(summaries)) == len(summaries)
    assert all(operation["summary"] for _, _, operation in operations())


def test_the_document_is_valid() -> None:
    from openapi_spec_validator import validate  # it reads grammars for seconds, in each process of a run

    validate(openapi_document())


def test_clients_read_of_models_and_lora() -> None:
    """Not of checkpoints and adapters, as the code calls them; what A1111 calls so keeps its name."""
    native = {path: item for path, item in openapi_document()["paths"].items() if path.startswith("/api/")}
    for part in (native, openapi_document()["components"]["schemas"]):
        for text in re.findall(r"'(?:summary|description|title)': ('[^']*'|\"[^\"]*\")", str(part)):
            assert not re.search(r"(?i)adapter|checkpoint", text), text


def test_whatever_takes_a_body_has_an_example() -> None:
    for method, path, operation in operations():
        content = operation.get("requestBody", {}).get("content", {})
        if content and not path.startswith("/sdapi"):
            assert any(media.get("example") for media in content.values()), f"{method} {path}"


def test_refusals_are_enumerated() -> None:
    """By their statuses, each with its codes."""
    statuses = refusal_statuses()
    for key, known in OPERATIONS.items():
        method, path = key.split(" ")
        answers = openapi_document()["paths"][path][method.lower()]["responses"]
        for code in known.refusals:
            assert f"`{code}`" in answers[str(statuses[code])]["description"], (key, code)


@pytest.fixture
def world(db: None) -> World:
    return World()


def address_of(world: World, path: str) -> str:
    """The path with ids of rows in the state that it needs."""
    if path.endswith("/cancel"):
        return path.format(generation_id=create_generation(owner=world.owner).id)
    if path.endswith(("/input", "/mask")):
        white, red = Image.new("L", (256, 256), 255), Image.new("RGB", (256, 256), "red")
        pictures = {"input_image": encoded(red), "mask_image": encoded(white)}
        inpaint = create_generation(owner=world.owner, kind=Kind.INPAINT, strength=1.0, **pictures)
        return path.format(generation_id=inpaint.id)
    return world.address(path.removeprefix("/"))


def body_of(key: str) -> dict[str, Any]:
    """The example as it stands; a file beside it where the form has one."""
    example = OPERATIONS[key].example
    if key.endswith("/loras/upload"):
        file = SimpleUploadedFile("style.safetensors", lora_bytes("builtin"))
        return {"data": {**example, "file": file}}
    return {"data": example or {}, "content_type": "application/json"}


# What needs pictures of an edit, which no model that ships makes; its route is tested with the edits.
WITHOUT_ROWS = "GET /api/v1/generations/{generation_id}/inputs/{index}"


def test_each_example_runs_as_it_stands(world: World) -> None:
    """For the owner of what it is about, who is signed in on the page, as Swagger's requests are."""
    client = Client()
    client.force_login(world.owner)
    for key in sorted(OPERATIONS.keys() - {WITHOUT_ROWS}):
        method, path = key.split(" ")
        Worker.objects.update(heartbeat_at=timezone.now())
        more = body_of(key) if method in ("POST", "PATCH") else {}
        address = address_of(world, path)
        with put_back():
            answer = getattr(client, method.lower())(address, **more)
        assert 200 <= answer.status_code < 300, (key, answer.status_code, answer.content[:500])


def test_each_dialect_s_example_runs_as_it_stands(world: World) -> None:
    for _, path, method, _ in dialect_routes():
        body = (
            {"data": EXAMPLES.get(path, {}), "content_type": "application/json"} if method == "post" else {}
        )
        address = path.replace("{name}", "builtin")
        answer = getattr(Client(), method)(address, headers=world.headers["owner"], **body)
        assert 200 <= answer.status_code < 300, (path, answer.status_code, answer.content[:500])


def test_a_generated_form_takes_loras(world: World) -> None:
    """As Swagger sends them: text with JSON in a form."""
    form = {"prompt": "a red circle", "width": "256", "height": "256", "loras": '[{"lora": "outline"}]'}
    answer = Client().post("/api/v1/generations", form, headers=world.headers["owner"])
    assert answer.status_code == 202, answer.content
    media = openapi_document()["paths"]["/api/v1/generations"]["post"]["requestBody"]["content"][
        "multipart/form-data"
    ]
    name = media["schema"]["$ref"].rpartition("/")[2]
    assert openapi_document()["components"]["schemas"][name]["properties"]["loras"]["type"] == "string"


def test_the_sockets_document_is_made_of_the_messages() -> None:
    """Every event, with the fields that the reference names for it; all references lead somewhere."""
    document = asyncapi_document(host="example.org", secure=True)
    assert set(get_args(EventType)) == set(EVENT_FIELDS) <= set(document["components"]["messages"])
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", REFERENCE, flags=re.MULTILINE))
    for name, fields in EVENT_FIELDS.items():
        written = set(re.findall(r"`(\w+)[`:]", rows[name]))
        assert {field for field in fields if field not in ("phase?",)} <= {
            one for word in written for one in (word, f"{word}?")
        }, name
        schema = document["components"]["schemas"][name]
        assert schema["properties"]["type"] == {"const": name}
    for reference in re.findall(r"'\$ref': '#/([^']+)'", str(document)):
        found: Any = document
        for part in reference.split("/"):
            found = found[part]
    assert document["servers"]["here"] == {"host": "example.org", "protocol": "wss"}


def test_the_documents_lead_to_each_other(client: Client) -> None:
    page = client.get("/api/docs/").content.decode()
    assert client.get("/api/asyncapi").json()["asyncapi"] == "3.0.0"
    for path in ("/api/asyncapi", "/api/schema?format=json", "/api/v1/"):
        assert f'href="{path}"' in page
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    assert "persistAuthorization" in client.get("/api/docs/?script").content.decode()
