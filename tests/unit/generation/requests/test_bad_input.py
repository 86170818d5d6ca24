"""Every bad request is a 4xx that names the field to blame, and leaves nothing behind."""

import json
from typing import Any

import pytest
from rest_framework.test import APIClient

from generation.models import Generation
from models_registry.models import Checkpoint

GENERATE = "/api/v1/generate/txt2img"
GOOD = {"prompt": "a red circle"}

BAD_FIELDS: list[tuple[str, Any]] = [
    ("prompt", ""),
    ("prompt", "   "),
    ("prompt", None),
    ("prompt", 32_001 * "x"),
    ("prompt", "a\x00b"),
    ("prompt", "a \ud800 surrogate"),
    ("prompt", ["a"]),
    ("prompt", {"a": 1}),
    ("prompt", True),
    ("prompt", 5),
    ("negative_prompt", 32_001 * "x"),
    ("negative_prompt", "\x00"),
    ("negative_prompt", None),
    ("width", 511),
    ("width", 513),
    ("width", 520),
    ("width", 240),
    ("width", 1025),
    ("width", 1040),
    ("width", "wide"),
    ("width", 512.5),
    ("width", []),
    ("height", 511),
    ("height", 1025),
    ("height", -512),
    ("height", None),
    ("num_inference_steps", 0),
    ("num_inference_steps", 101),
    ("num_inference_steps", "many"),
    ("num_inference_steps", True),
    ("steps", 0),
    ("steps", 101),
    ("guidance_scale", 0.9),
    ("guidance_scale", 20.1),
    ("guidance_scale", "strong"),
    ("guidance_scale", None),
    ("seed", -2),
    ("seed", 2**32),
    ("seed", 1.5),
    ("seed", "lucky"),
    ("num_images", 0),
    ("num_images", 11),
    ("timeout_s", 0),
    ("timeout_s", "long"),
    ("reproducible", "perhaps"),
    ("strict", 7),
    ("stepz", 3),
    ("kind", "video"),
    ("kind", None),
    ("kind", ["txt2img"]),
    ("image", ""),
    ("image", None),
    ("image", 7),
    ("image", "not base64"),
    ("image", "aGVsbG8="),
    ("image", {"url": "https://example.com/a.png"}),
    ("mask_image", "data:image/png;base64,"),
    ("strength", 0.5),
    ("strength", 1.1),
    ("strength", "strong"),
    ("strength", None),
    ("scheduler", "fast"),
    ("scheduler", None),
    ("scheduler", 7),
    ("scheduler", ["ddim"]),
    ("clip_skip", -1),
    ("clip_skip", 3),
    ("clip_skip", 1.5),
    ("clip_skip", None),
    ("clip_skip", 10**300),
    ("output_format", "gif"),
    ("output_format", ""),
    ("output_format", None),
    ("model", "no-such-model"),
    ("model", ""),
    ("model", "../../etc/passwd"),
    ("model_id", "no-such-model"),
]


def params_of(response: Any) -> set[str]:
    """The fields that a problem blames."""
    return {error["param"] for error in response.json()["errors"]}


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS, ids=lambda value: repr(value)[:24])
@pytest.mark.parametrize("path", [GENERATE, "/v1/generations/"])
def test_a_bad_field_is_named_and_nothing_is_written(
    api: APIClient, path: str, field: str, value: Any
) -> None:
    """400, in the problem's shape, on both creating routes."""
    response = api.post(path, json.dumps(GOOD | {field: value}), content_type="application/json")
    assert response.status_code == 400, response.content
    assert response["Content-Type"] == "application/problem+json"
    assert params_of(response) == {field}
    assert response.json()["code"] == "invalid_request"
    assert field in response.json()["detail"]
    assert not Generation.objects.exists()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"17",
        b'{"prompt": NaN}',
        b'{"prompt": "a", "guidance_scale": Infinity}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": "a", "guidance_scale": 1e999}',
        b"\xff\xfe",
        b'{"prompt": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_a_body_that_is_no_valid_object_is_400(api: APIClient, body: bytes) -> None:
    """Broken, hostile or non-object JSON never becomes a 500."""
    response = api.post(GENERATE, body, content_type="application/json")
    assert response.status_code == 400, response.content
    assert response.json()["code"] in {"invalid_request", "parse_error"}
    assert not Generation.objects.exists()


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "application/octet-stream"])
def test_a_wrong_content_type_is_415(api: APIClient, content_type: str) -> None:
    """The answer says that the type is what is wrong."""
    response = api.post(GENERATE, b"prompt=a", content_type=content_type)
    assert response.status_code == 415
    assert response.json()["code"] == "unsupported_media_type"
    assert not Generation.objects.exists()


def test_an_alias_that_contradicts_its_field_is_refused(api: APIClient) -> None:
    """Two names for one thing may be given only when they agree."""
    assert params_of(api.post(GENERATE, GOOD | {"steps": 3, "num_inference_steps": 4})) == {"steps"}
    assert params_of(api.post(GENERATE, GOOD | {"model": "builtin", "model_id": "sd-1-5"})) == {"model_id"}
    assert api.post(GENERATE, GOOD | {"steps": 3, "num_inference_steps": 3}).status_code == 202


def test_every_bad_field_is_reported_at_once(api: APIClient) -> None:
    """A client can mend them all in one go."""
    response = api.post(GENERATE, {"prompt": "", "steps": 0, "guidance_scale": 99})
    assert params_of(response) == {"prompt", "steps", "guidance_scale"}


def test_a_disabled_model_is_unknown(api: APIClient) -> None:
    """What an operator disabled is neither listed nor usable."""
    Checkpoint.objects.filter(id="sd-1-5").update(enabled=False)
    assert params_of(api.post(GENERATE, GOOD | {"model": "sd-1-5"})) == {"model"}
    assert "sd-1-5" not in {model["id"] for model in api.get("/api/v1/models").json()["data"]}


def test_each_model_has_its_own_limits(api: APIClient) -> None:
    """512 to 1024 in steps of 8 for Stable Diffusion; what fits the built-in model need not fit it."""
    assert api.post(GENERATE, GOOD | {"model": "sd-1-5", "width": 520}).status_code == 202
    assert params_of(api.post(GENERATE, GOOD | {"model": "sd-1-5", "width": 256})) == {"width"}
    assert params_of(api.post(GENERATE, GOOD | {"model": "sd-1-5", "width": 516})) == {"width"}
    assert api.post(GENERATE, GOOD | {"model": "builtin", "width": 256}).status_code == 202


@pytest.mark.django_db
def test_an_anonymous_request_is_401_and_writes_nothing() -> None:
    """Before anything is read of the body."""
    response = APIClient().post(GENERATE, GOOD)
    assert response.status_code == 401
    assert response["WWW-Authenticate"].startswith("Bearer")
    assert response["Content-Type"] == "application/problem+json"
