"""What is adjusted in a valid request, and said."""

import base64
from typing import Any

import pytest
from rest_framework.test import APIClient

from generation.gpu_worker.batch import batch_of
from generation.models import Generation
from models_registry.builtin import DEMO_PROMPT
from models_registry.choices import Family
from models_registry.models import Checkpoint
from tests.support.pictures import decoded, encoded, gradient, mask_of

BASE = "/api/v1/generations"


def made(api: APIClient, **body: Any) -> tuple[Generation, list[dict[str, Any]]]:
    """What a request became, and its warnings."""
    answer = api.post(BASE, {"prompt": "a red circle"} | body)
    assert answer.status_code == 202, answer.content
    return Generation.objects.get(pk=answer.json()["id"]), answer.json()["warnings"]


@pytest.mark.parametrize(
    ("size", "drawn", "param"),
    [
        ((1024, 1024), (640, 640), "width"),
        ((768, 512), (640, 432), "width"),
        ((512, 1024), (320, 640), "height"),
        ((1008, 256), (640, 160), "width"),
    ],
)
def test_what_the_builtin_model_draws_badly_is_enlarged_and_said(
    api: APIClient, size: tuple[int, int], drawn: tuple[int, int], param: str
) -> None:
    """At the ratio that was asked for, in steps of its own; `strict` refuses it."""
    body = {"width": size[0], "height": size[1]}
    generation, (warning,) = made(api, **body)
    assert (warning["param"], warning["used"]) == (param, "{}x{}".format(*drawn))
    assert "enlarged" in warning["reason"]
    batch = batch_of(generation)
    assert ((batch.width, batch.height), batch.drawn_size) == (size, drawn)
    refused = api.post(BASE, body | {"prompt": "a", "strict": True})
    assert (refused.status_code, refused.json()["errors"][0]["param"]) == (422, param)


@pytest.mark.parametrize("masked", [False, True])
def test_what_a_picture_guides_is_enlarged_as_well(api: APIClient, *, masked: bool) -> None:
    """The picture is kept as it came."""
    picture = base64.b64encode(encoded(gradient(1024, 768))).decode()
    mask = {"mask_image": base64.b64encode(encoded(mask_of(gradient(1024, 768)))).decode()} if masked else {}
    generation, (warning,) = made(api, image=picture, **mask)
    assert (warning["param"], warning["used"]) == ("width", "640x480")
    batch = batch_of(generation)
    assert ((batch.width, batch.height), batch.drawn_size) == ((1024, 768), (640, 480))
    assert decoded(batch.image or b"").size == (1024, 768)


def test_nothing_else_is_enlarged(api: APIClient) -> None:
    """Neither what is small, nor what another model draws."""
    picture = base64.b64encode(encoded(gradient(640, 512))).decode()
    Checkpoint.objects.filter(family=Family.SD1).update(enabled=True)
    for body in (
        {"width": 640, "height": 640},
        {"image": picture},
        {"width": 1024, "height": 1024, "model": "sd-1-5"},
    ):
        generation, warnings = made(api, **body)
        assert warnings == []
        assert batch_of(generation).drawn_size is None


@pytest.mark.parametrize(
    ("prompt", "unread"),
    [
        ("a cat riding a bicycle, a cat", "cat, riding, bicycle."),
        ("Two BLUE stars on 3 white crosses", "two, 3."),
        ("赤い circle", "赤い."),
        ("x" * 100, f"{'x' * 30}."),
        (
            " ".join(f"w{number}" for number in range(12)),
            "w0, w1, w2, w3, w4, w5, w6, w7, w8, w9 and 2 more.",
        ),
    ],
)
def test_words_that_the_builtin_model_does_not_read_are_named(
    api: APIClient, prompt: str, unread: str
) -> None:
    """With what it draws; `strict` refuses them."""
    _, (warning,) = made(api, prompt=prompt)
    assert (warning["param"], warning["used"]) == ("prompt", None)
    assert warning["reason"] == f"builtin draws 8 shapes in 12 colours. It does not read: {unread}"
    refused = api.post(BASE, {"prompt": prompt, "strict": True})
    assert (refused.status_code, refused.json()["errors"][0]["param"]) == (422, "prompt")


def test_every_word_of_the_examples_is_read(api: APIClient) -> None:
    """And another model's words are its own affair."""
    Checkpoint.objects.filter(family=Family.SD1).update(enabled=True)
    for body in ({"prompt": DEMO_PROMPT}, {"prompt": "a cat", "model": "sd-1-5"}):
        assert made(api, **body)[1] == []
