"""A refusal says what to send instead, and all that is wrong at once."""

import base64
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from rest_framework.test import APIClient

from generation.choices import Kind, OutputFormat
from tests.support.pictures import encoded, gradient

PATH = "/api/v1/generations"
CIRCLE = {"prompt": "a red circle"}


def refused(api: APIClient, body: Any, path: str = PATH, **options: Any) -> dict[str, str]:
    """What is said of each field."""
    answer = api.post(path, body, **options)
    assert answer.status_code == 400, answer.content
    return {error["param"]: error["detail"] for error in answer.json()["errors"]}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("promt", "prompt"),
        ("negative", "negative_prompt"),
        ("guidance", "guidance_scale"),
        ("sampler", "scheduler"),
        ("CFG_scale", "guidance_scale"),
        ("denoising_strength", "strength"),
    ],
)
def test_a_misspelt_field_is_asked_back(api: APIClient, name: str, meant: str) -> None:
    """With the field that it looks like, or that another API calls so, before all that there are."""
    assert refused(api, CIRCLE | {name: 1})[name].startswith(f"Unknown field. Did you mean {meant}? Known: ")


def test_what_looks_like_no_field_is_not_asked_back(api: APIClient) -> None:
    """All of them are listed anyway."""
    assert refused(api, CIRCLE | {"zzz": 1})["zzz"].startswith("Unknown field. Known: ")


@pytest.mark.parametrize(
    ("field", "choices"),
    [
        ("kind", Kind.values),
        ("output_format", OutputFormat.values),
        ("scheduler", ["ddim", "euler_a", "lcm"]),
    ],
)
def test_a_wrong_choice_lists_the_right_ones(api: APIClient, field: str, choices: list[str]) -> None:
    """Whichever field it is."""
    said = refused(api, CIRCLE | {field: "other"})[field]
    assert said.startswith('"other" is not a valid choice. Known: ')
    assert all(choice in said for choice in choices)


def test_a_wrong_event_lists_the_right_ones(api: APIClient) -> None:
    """In a list too."""
    said = refused(api, CIRCLE | {"webhook_events": ["ended"]})["webhook_events.0"]
    assert said == '"ended" is not a valid choice. Known: started, succeeded, failed, canceled.'


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("generations?status=done", "done is none of queued, running, succeeded, failed, canceled."),
        ("generations?kind=photo", "photo is none of txt2img, img2img, inpaint, edit."),
        ("loras?family=sd9", "sd9 is none of "),
        ("loras?state=gone", "gone is none of "),
    ],
)
def test_a_wrong_filter_lists_the_right_ones(api: APIClient, query: str, said: str) -> None:
    """As the fields of a request do."""
    answer = api.get(f"/api/v1/{query}")
    assert answer.status_code == 400
    assert said in answer.json()["detail"]


def test_a_size_that_does_not_fit_names_those_beside_it(api: APIClient) -> None:
    """Within the model's limits."""
    said = refused(api, CIRCLE | {"width": 500, "height": 1023})
    assert said["width"].endswith("pixels: 496 or 512.")
    assert said["height"].endswith("pixels: 1008 or 1024.")


def test_all_that_is_wrong_is_said_at_once(api: APIClient) -> None:
    """What is unknown, of a wrong kind, out of the model's bounds, and what a stranger may not have."""
    body = {"promt": "a", "steps": "many", "width": 500, "clip_skip": 9, "lora_scale": 1.0, "priority": 5}
    assert set(refused(api, body)) == {*body, "prompt"}
    body = CIRCLE | {"seed": -9, "model": "nothing", "strength": 0.5}
    assert set(refused(api, body)) == {"seed", "model", "strength"}


def test_what_hangs_on_an_unreadable_field_is_not_said(api: APIClient) -> None:
    """Whether a strength has a place is seen once the picture can be read; an unknown model has no limits."""
    body = CIRCLE | {
        "image": "no picture",
        "strength": 0.5,
        "webhook_url": "ftp://x",
        "webhook_events": ["failed"],
    }
    assert set(refused(api, body)) == {"image", "webhook_url"}
    assert set(refused(api, CIRCLE | {"model": 7, "width": 500})) == {"model"}
    picture = base64.b64encode(encoded(gradient(256, 256))).decode()
    assert set(refused(api, CIRCLE | {"image": picture, "strength": 7, "kind": "txt2img"})) == {
        "strength",
        "image",
    }


def test_a_form_too_says_all_at_once(api: APIClient) -> None:
    """What only forms can do wrong is said beside the rest."""
    body = {"prompt": ["a", "b"], "seed": "x", "width": "500"}
    assert set(refused(api, body, format="multipart")) == set(body)


@pytest.mark.parametrize("strength", ["-inf", "nan", "-1.7e308", "1.7e308"])
def test_no_number_is_refused_beside_another_field(api: APIClient, strength: str) -> None:
    """As it is by itself."""
    image = SimpleUploadedFile("a.png", encoded(gradient(256, 256)), "image/png")
    body = {"prompt": "a", "seed": "x", "image": image, "strength": strength}
    assert set(refused(api, body, format="multipart")) == {"seed", "strength"}


@pytest.mark.parametrize("header", ["Token img_abcdefgh", "img_abcdefghijkl", "Basic YTpi", "Digest x"])
def test_another_scheme_is_told_which_one(header: str, db: None) -> None:
    """The header itself, which may be a token, is not repeated."""
    answer = APIClient().get(PATH, headers={"Authorization": header})
    assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
    assert "send `Authorization: Bearer <token>`" in answer.json()["detail"]
    assert header not in answer.content.decode()


def test_without_a_token_it_says_how_one_is_sent(db: None) -> None:
    """And whose."""
    said = APIClient().get(PATH).json()["detail"]
    assert (
        said
        == "Send `Authorization: Bearer <token>`, with a Hugging Face token (hf_…) or a local one (img_…)."
    )
