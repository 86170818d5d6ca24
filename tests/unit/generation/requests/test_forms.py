"""How pictures and fields arrive: base64, data URIs and forms, also broken ones."""

from typing import Any
from urllib.parse import urlencode

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rest_framework.test import APIClient

from generation.models import Generation
from loras.models import Lora
from tests.support.pictures import MASK, PICTURE, decoded, gradient, kept, params_of, text_of, upload

BASE = "/api/v1/generations"
IMG2IMG = "/api/v1/generate/img2img"


@pytest.mark.parametrize("path", [IMG2IMG, "/v1/img2img/", BASE])
@pytest.mark.parametrize("way", ["base64", "data uri", "multipart", "multipart text", "urlencoded"])
def test_a_picture_arrives_in_every_way(api: APIClient, path: str, way: str) -> None:
    """And is kept as what the pipeline takes."""
    values: dict[str, Any] = {"prompt": "a", "image": text_of(PICTURE), "steps": 10}
    if way == "multipart":
        values["image"] = upload(PICTURE, "../../etc/passwd", "text/html")
    if way == "data uri":
        values["image"] = "data:image/jpeg;base64," + values["image"]
    forms = {"multipart": "multipart", "multipart text": "multipart"}
    if way == "urlencoded":
        values["image"] = values["image"].replace("+", "%2B")
        body = "&".join(f"{name}={value}" for name, value in values.items())
        response = api.post(path, body, content_type="application/x-www-form-urlencoded")
    else:
        response = api.post(path, values, format=forms.get(way, "json"))
    assert response.status_code == 202, response.content
    answer = response.json()
    assert (answer["kind"], answer["strength"], answer["total_steps"], answer["warnings"]) == (
        "img2img",
        0.8,
        8,
        [],
    )
    generation = Generation.objects.get()
    assert kept() == [generation.input_image]
    assert generation.input_image.endswith(f"/{generation.id}/image.png")
    assert decoded(api.get(answer["urls"]["input"]).content).tobytes() == gradient(256, 256).tobytes()
    assert "mask" not in answer["urls"]


def test_a_form_takes_numbers_and_booleans(api: APIClient) -> None:
    """As a browser or curl sends them; empty ones are as good as left out."""
    values = {
        "prompt": "a",
        "image": upload(PICTURE),
        "mask_image": upload(MASK),
        "steps": "6",
        "strength": "0.5",
        "guidance_scale": "2.5",
        "clip_skip": "1",
        "seed": "",
        "scheduler": "euler_a",
        "output_format": "webp",
        "strict": "true",
        "reproducible": "on",
    }
    response = api.post(IMG2IMG, values, format="multipart")
    assert response.status_code == 202, response.content
    expected = {
        "kind": "inpaint",
        "strength": 0.5,
        "total_steps": 3,
        "guidance_scale": 2.5,
        "clip_skip": 1,
        "scheduler": "euler_a",
        "output_format": "webp",
        "strict": True,
        "reproducible": True,
    }
    assert response.json().items() >= expected.items()
    plain = api.post(f"{BASE}", "prompt=a&steps=3&strict=1", content_type="application/x-www-form-urlencoded")
    assert (plain.json()["num_inference_steps"], plain.json()["kind"]) == (3, "txt2img")


LORA_FORMS: dict[str, list[tuple[str, str]]] = {
    "JSON text": [("loras", '[{"lora": "first", "scale": 0.5}, {"lora": "second"}]')],
    "repeated objects": [("loras", '{"lora": "first", "scale": 0.5}'), ("loras", '{"lora": "second"}')],
    "repeated, one a name": [("loras", '{"lora": "first", "scale": 0.5}'), ("loras", "second")],
    "brackets": [("loras[1][lora]", "second"), ("loras[0][lora]", "first"), ("loras[0][scale]", "0.5")],
    "brackets, one empty": [
        ("loras[0][lora]", "first"),
        ("loras[0][scale]", "0.5"),
        ("loras[7][lora]", "second"),
        ("loras[7][scale]", ""),
    ],
}


@pytest.fixture
def two_loras(owner: User) -> None:
    """Two adapters of the built-in model."""
    for name in ("first", "second"):
        Lora.objects.create(
            owner=owner,
            name=name,
            source="upload",
            family="builtin",
            rank=4,
            alpha=4.0,
            sha256=name.encode().hex().ljust(64, "0"),
            state="present",
        )


@pytest.mark.parametrize("way", ["urlencoded", "multipart"])
@pytest.mark.parametrize("form", LORA_FORMS)
def test_a_form_names_adapters(api: APIClient, two_loras: None, way: str, form: str) -> None:
    """As JSON text, repeated, or in parts."""
    fields = [("prompt", "a"), ("model", "builtin"), *LORA_FORMS[form]]
    if way == "urlencoded":
        response = api.post(BASE, urlencode(fields), content_type="application/x-www-form-urlencoded")
    else:
        body = "".join(
            f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields
        )
        response = api.post(BASE, f"{body}--x--\r\n", content_type="multipart/form-data; boundary=x")
    assert response.status_code == 202, response.content
    assert [(use["name"], use["scale"]) for use in response.json()["loras"]] == [
        ("first", 0.5),
        ("second", 1.0),
    ]


def test_an_empty_list_of_adapters_is_none(api: APIClient) -> None:
    """As a browser sends a field that nobody filled in."""
    for body in ("prompt=a&loras=", "prompt=a&loras[0][lora]=", "prompt=a&loras=%5B%5D"):
        response = api.post(BASE, body, content_type="application/x-www-form-urlencoded")
        assert (response.status_code, response.json()["loras"]) == (202, [])


@pytest.mark.parametrize(
    ("fields", "blamed"),
    [
        ([("loras", "[{")], "loras"),
        ([("loras", "[" * 9000)], "loras"),
        ([("loras", '["' + "a" * 20_000 + '"]')], "loras"),
        ([("loras", '[{"lora": "first", "scale": NaN}]')], "loras"),
        ([("loras", '[{"lora": "\\ud800"}]')], "loras"),
        ([("loras", "[1]")], "loras.0"),
        ([("loras", '[{"lora": "first", "scale": 3}]')], "loras.0.scale"),
        ([("loras", '{"scale": 1}')], "loras.0.lora"),
        ([("loras", '{"lora": "first", "strength": 1}')], "loras.0.strength"),
        ([("loras", "nobody")], "loras.0.lora"),
        ([("loras", "first"), ("loras", "first")], "loras"),
        ([("loras", "first")] * 9, "loras"),
        ([("loras[0][lora]", "first"), ("loras[0][scale]", "strong")], "loras.0.scale"),
        ([("loras[0][scale]", "1")], "loras.0.lora"),
        ([("loras[0][lora]", "first"), ("loras[0][lora]", "second")], "loras.0.lora"),
        ([("loras[0][lora]", "first"), ("loras[0][strength]", "1")], "loras.0.strength"),
        ([("loras[0][lora]", "first"), ("loras", "second")], "loras"),
        ([("loras[x][lora]", "first")], "loras[x][lora]"),
        ([("loras[0]", "first")], "loras[0]"),
        ([("prompt[0][lora]", "first")], "prompt[0][lora]"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_a_form_says_wrong_about_adapters_is_named(
    api: APIClient, two_loras: None, fields: list[tuple[str, str]], blamed: str
) -> None:
    body = urlencode([("prompt", "a"), ("model", "builtin"), *fields])
    response = api.post(BASE, body, content_type="application/x-www-form-urlencoded")
    assert response.status_code == 400, response.content
    assert {
        error["param"].split("[", 1)[0] if blamed == "loras" else error["param"]
        for error in response.json()["errors"]
    } == {blamed}


@pytest.mark.parametrize(
    ("values", "blamed"),
    [
        ({"image": [upload(PICTURE), upload(PICTURE)]}, "image"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": upload(b"a red circle", "prompt.txt")}, "prompt"),
        ({"steps": upload(b"x", "5")}, "steps"),
        ({"scheduler": upload(b"x", "ddim")}, "scheduler"),
        ({"csrfmiddlewaretoken": upload(b"x"), "steps": "0"}, "steps"),
        ({"image": upload(b"")}, "image"),
        ({"image": upload(bytes(11 << 20))}, "image"),
        ({"image": "a text"}, "image"),
        ({"file": upload(PICTURE)}, "file"),
        ({"steps": "many"}, "steps"),
        ({"strict": "perhaps"}, "strict"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_form_can_do_wrong_is_named(api: APIClient, values: dict[str, Any], blamed: str) -> None:
    """Repeated fields, files where text belongs, text where a file belongs."""
    for value in values.values():
        for file in value if isinstance(value, list) else [value]:
            if isinstance(file, SimpleUploadedFile):
                file.seek(0)
    response = api.post(IMG2IMG, {"prompt": "a", "image": upload(PICTURE)} | values, format="multipart")
    assert params_of(response) == {blamed}
    assert (Generation.objects.count(), kept()) == (0, [])


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--x\r\n\r\n"),
        ("multipart/form-data; boundary=", b"--x\r\n"),
        ("multipart/form-data; boundary=\xe4", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b""),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\n",
        ),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: base64\r\n\r\n?\r\n--x--",
        ),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\nb\r\n" * 2000,
        ),
        ("application/x-www-form-urlencoded", b"&".join(b"a%d=b" % number for number in range(2000))),
        ("application/x-www-form-urlencoded", b"prompt=%00"),
        ("application/x-www-form-urlencoded", b"prompt=\xff&image=%ff"),
    ],
)
def test_a_broken_form_is_400(api: APIClient, content_type: str, body: bytes) -> None:
    """Never a 500."""
    response = api.post(IMG2IMG, body, content_type=content_type)
    assert response.status_code == 400, response.content
    assert response["Content-Type"] == "application/problem+json"
    assert (Generation.objects.count(), kept()) == (0, [])


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=300), st.sampled_from(["text", "file"]), st.sampled_from(["image", "mask_image"]))
def test_no_bytes_are_a_server_error(api: APIClient, data: bytes, way: str, field: str) -> None:
    """Whatever stands in place of a picture, in JSON or in a form."""
    for junk in (data, PICTURE[: 40 + len(data)] + data + PICTURE[200:]):
        values: dict[str, Any] = {"prompt": "a", "image": text_of(PICTURE)} | {field: text_of(junk)}
        if way == "file":
            values = {"prompt": "a", "image": upload(PICTURE)} | {field: upload(junk)}
        response = api.post(IMG2IMG, values, format="multipart" if way == "file" else "json")
        assert response.status_code in {202, 400}, response.content


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=200))
def test_no_form_is_a_server_error(api: APIClient, data: bytes) -> None:
    """Whatever stands between the boundaries."""
    body = b"--x\r\nContent-Disposition: form-data; name=" + data + b"\r\n--x--\r\n"
    response = api.post(IMG2IMG, body, content_type="multipart/form-data; boundary=x")
    assert 400 <= response.status_code < 500, response.content


def test_a_large_picture_in_base64_fits_into_a_body() -> None:
    """The two limits agree."""
    assert len(text_of(bytes(10 << 20))) < django_settings.MAX_BODY_BYTES
