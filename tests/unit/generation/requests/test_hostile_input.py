"""Requests made to cost much, to break something, or to go where they must not."""

import base64
import json
from ipaddress import ip_address
from typing import Any

import pytest
from django.test import Client
from rest_framework.test import APIClient

from imagegen_project.common.outgoing import (
    UnreachableError,
    is_public,
    outgoing_request,
    url_problem,
)

URL = "/api/v1/generations"
MANY = 100_000


@pytest.mark.parametrize(
    ("field", "value"),
    [("loras", [1] * 9_000), ("webhook_events", [1] * 9_000), ("webhook_events", "," * MANY)],
)
def test_a_list_is_counted_before_it_is_read(api: APIClient, field: str, value: Any) -> None:
    """Millions of children, each with its error, would take the process's memory and minutes."""
    answer = api.post(URL, {"prompt": "x", field: value}, format="json")
    assert answer.status_code == 400
    assert field in answer.content.decode()
    assert len(answer.content) < 2000


def test_no_request_has_so_many_values(api: APIClient) -> None:
    """Which is known before any of them is read."""
    answer = api.post(URL, {"prompt": "x", "loras": [1] * MANY}, format="json")
    assert (answer.status_code, answer.json()["code"]) == (400, "parse_error")
    assert "values" in answer.json()["detail"]


@pytest.mark.parametrize("path", [URL, "/v1/images/generations"])
def test_only_the_first_unknown_fields_are_named(api: APIClient, path: str) -> None:
    answer = api.post(
        path, {"prompt": "x", **{f"f{number}": 1 for number in range(MANY // 10)}}, format="json"
    )
    assert answer.status_code in (400, 422)
    assert len(answer.content) < 20_000


def test_a_prompt_that_is_too_long_is_not_searched(api: APIClient) -> None:
    """For A1111's tags; the limit is said."""
    answer = api.post("/sdapi/v1/txt2img", {"prompt": "<lora:a" + ":" * MANY}, format="json")
    assert answer.status_code == 422
    assert "32000" in answer.content.decode()


def test_too_many_steps_for_lcm_are_refused(api: APIClient) -> None:
    answer = api.post(URL, {"prompt": "x", "scheduler": "lcm", "steps": 51, "model": "sd-1-5"}, format="json")
    assert answer.status_code == 400
    assert "50 steps" in answer.content.decode()


@pytest.mark.parametrize("cookie", ['"aaaaaaaa\\000"', "short", "UPPERCASE-AND-MORE"])
@pytest.mark.parametrize(("path", "status"), [("/health/ready", 200), ("/api/v1/models", 200), (URL, 401)])
def test_a_cookie_that_is_no_session_is_nobodys(db: None, path: str, status: int, cookie: str) -> None:
    """PostgreSQL takes no NUL, and must not be asked."""
    answer = Client(raise_request_exception=False).get(path, headers={"Cookie": f"sessionid={cookie}"})
    assert answer.status_code == status


@pytest.mark.parametrize("path", [URL, "/api/v1/loras"])
def test_a_cursor_that_names_no_row_is_404(api: APIClient, path: str) -> None:
    assert api.get(path, {"cursor": base64.b64encode(b"p=foo").decode()}).status_code == 404


@pytest.mark.parametrize("name", ["a\0", "\ud800", "x" * 1000, [7]])
def test_an_option_that_cannot_be_a_name_is_refused(api: APIClient, name: Any) -> None:
    body = json.dumps({"sd_model_checkpoint": name})
    answer = api.post("/sdapi/v1/options", body, content_type="application/json")
    assert 400 <= answer.status_code < 500


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".org"])
def test_a_host_that_can_be_no_name_ends_as_a_failure(host: str) -> None:
    """Refused when it is given; and where it was stored before that, an attempt like any other."""
    assert url_problem(f"http://{host}/", allow_private=False)
    with pytest.raises(UnreachableError):
        outgoing_request("POST", f"http://{host}/", body=b"", headers={}, timeout_s=5, allow_private=False)


@pytest.mark.parametrize("address", ["fec0::1", "64:ff9b:1::a00:1", "::10.0.0.1", "::7f00:1"])
def test_addresses_of_a_site_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("path", ["/v1/images/edits", "/api/v1/loras/upload", "/api/v1/generations"])
def test_a_form_of_very_many_files_is_refused(api: APIClient, path: str) -> None:
    """By Django, whose refusal is a 400 everywhere."""
    part = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\na\r\n'
    body = part * 200 + b"--x--\r\n"
    answer = api.post(path, body, content_type="multipart/form-data; boundary=x")
    assert answer.status_code in (400, 415)


@pytest.mark.parametrize(
    "extra",
    [
        *({name: "\ud800"} for name in ("kind", "scheduler", "output_format", "model", "device_class")),
        *({name: "\ud800"} for name in ("webhook_url", "lora_path", "image", "steps", "strict")),
        {"webhook_events": ["\ud800"]},
        {"loras": [{"lora": "\ud800"}]},
        {"loras": [{"lora": "a", "\ud800": 1}]},
        {"loras": {"\ud800": 1}},
        {"\ud800": 1},
        {"a\udfff": {"b": "\ud800"}},
    ],
    ids=ascii,
)
@pytest.mark.parametrize("path", [URL, "/api/v1/generate/txt2img", "/v1/txt2img"])
def test_lone_surrogates_are_a_400_that_names_the_field(
    api: APIClient, path: str, extra: dict[str, Any]
) -> None:
    """JSON can say them; UTF-8, and so every answer and the database, cannot."""
    answer = api.post(path, json.dumps({"prompt": "x"} | extra), content_type="application/json")
    assert answer.status_code == 400, answer.content
    name = next(iter(extra)).encode(errors="backslashreplace").decode()
    assert answer.json()["errors"][0]["param"].startswith(name)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/images/generations", ("model", "size", "quality", "response_format", "output_format", "user")),
        ("/sdapi/v1/txt2img", ("sampler_name", "scheduler", "negative_prompt", "sampler_index")),
        ("/hf/models/builtin", ("inputs", "parameters", "options")),
        ("/api/v1/models/load", ("model", "model_id", "workers")),
        ("/api/v1/loras/load", ("lora_path", "weight_name", "revision", "name", "model_id")),
        ("/api/v1/loras/unload", ("lora",)),
    ],
)
def test_no_door_fails_for_lone_surrogates(api: APIClient, path: str, fields: tuple[str, ...]) -> None:
    for field in (*fields, "\ud800"):
        for value in ("\ud800", {"a\ud800": "\ud800"}, ["\ud800"]):
            body = json.dumps({"prompt": "x", field: value})
            answer = api.post(path, body, content_type="application/json")
            assert answer.status_code < 500, (field, value, answer.content)
