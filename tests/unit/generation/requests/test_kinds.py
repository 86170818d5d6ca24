"""img2img and inpaint over the API: which fields mean what, and what each model takes."""

from typing import Any

import pytest
from django.conf import settings as django_settings
from rest_framework.test import APIClient

from generation.gpu_worker.batch import batch_of
from generation.models import Generation
from models_registry.choices import Family
from models_registry.family_facts import FAMILY_FACTS
from models_registry.models import Checkpoint
from tests.support.pictures import (
    MASK,
    PICTURE,
    WITH_MASK,
    WITH_PICTURE,
    decoded,
    encoded,
    gradient,
    kept,
    mask_of,
    params_of,
    text_of,
)

BASE = "/api/v1/generations"
IMG2IMG = "/api/v1/generate/img2img"


def test_a_mask_means_inpainting(api: APIClient) -> None:
    """The whole of what it covers by default; both pictures can be had again."""
    answer = api.post(BASE, WITH_MASK).json()
    assert (answer["kind"], answer["strength"]) == ("inpaint", 1.0)
    assert answer["total_steps"] == answer["num_inference_steps"]
    mask = api.get(answer["urls"]["mask"])
    assert (mask["Content-Type"], decoded(mask.content).mode) == ("image/png", "L")
    assert decoded(mask.content).tobytes() == mask_of(gradient(256, 256)).tobytes()
    assert "private" in mask["Cache-Control"]
    assert api.get(answer["urls"]["input"], headers={"Accept": "image/*"}).status_code == 200
    assert api.get(BASE, {"kind": "inpaint"}).json()["results"][0]["id"] == answer["id"]
    assert api.get(BASE, {"kind": "img2img"}).json()["results"] == []


def test_the_padding_around_a_mask_is_kept(api: APIClient) -> None:
    """Also for a retry; zero is not the same as none, with which the whole picture is drawn."""
    assert api.post(BASE, WITH_MASK).json()["padding_mask_crop"] is None
    answer = api.post(BASE, WITH_MASK | {"padding_mask_crop": 0}).json()
    api.post(answer["urls"]["cancel"])
    again = api.post(f"{answer['urls']['self']}/retry").json()
    assert [one["padding_mask_crop"] for one in (answer, again)] == [0, 0]
    assert batch_of(Generation.objects.get(pk=again["id"])).padding_mask_crop == 0


def test_prefer_respond_async_answers_at_once(api: APIClient) -> None:
    """As for txt2img."""
    response = api.post(IMG2IMG, WITH_PICTURE, headers={"Prefer": "respond-async"})
    assert (response.status_code, response["Preference-Applied"]) == (202, "respond-async")


CLASHES: list[tuple[str, dict[str, Any], set[str]]] = [
    (IMG2IMG, {"prompt": "a"}, {"image"}),
    (IMG2IMG, {"prompt": "a", "mask_image": text_of(MASK)}, {"image"}),
    (IMG2IMG, WITH_PICTURE | {"kind": "txt2img"}, {"kind"}),
    (IMG2IMG, WITH_PICTURE | {"kind": "inpaint"}, {"mask_image"}),
    (IMG2IMG, WITH_MASK | {"kind": "img2img"}, {"mask_image"}),
    ("/api/v1/generate/txt2img", WITH_PICTURE, {"image"}),
    ("/api/v1/txt2img", WITH_MASK | {"strength": 0.5}, {"image", "mask_image", "strength"}),
    ("/api/v1/generate/txt2img", {"prompt": "a", "kind": "img2img"}, {"kind"}),
    (BASE, WITH_PICTURE | {"kind": "txt2img"}, {"image"}),
    (BASE, {"prompt": "a", "kind": "img2img"}, {"image"}),
    (BASE, {"prompt": "a", "kind": "inpaint"}, {"image", "mask_image"}),
    (BASE, {"prompt": "a", "mask_image": text_of(MASK)}, {"image"}),
    (BASE, {"prompt": "a", "strength": 0.5}, {"strength"}),
    (IMG2IMG, WITH_PICTURE | {"padding_mask_crop": 4}, {"padding_mask_crop"}),
    (IMG2IMG, WITH_MASK | {"padding_mask_crop": 2049}, {"padding_mask_crop"}),
]


@pytest.mark.parametrize(("path", "body", "blamed"), CLASHES)
def test_kinds_and_pictures_that_clash_are_refused(
    api: APIClient, path: str, body: dict[str, Any], blamed: set[str]
) -> None:
    """The field to blame is named, and nothing is kept."""
    assert params_of(api.post(path, body)) == blamed
    assert (Generation.objects.count(), kept()) == (0, [])


BAD: list[dict[str, Any]] = [
    {"image": text_of(PICTURE)[:-1]},
    {"image": text_of(b"<svg/>")},
    {"image": text_of(encoded(gradient(16, 16), "GIF"))},
    {"image": text_of(PICTURE[:-500])},
    {"image": "https://example.com/a.png"},
    {"image": "/etc/passwd"},
    {"image": ""},
    {"image": None},
    {"image": 7},
    {"image": [text_of(PICTURE)]},
    {"image": {"url": "a"}},
    {"mask_image": "none"},
    {"mask_image": text_of(encoded(mask_of(gradient(255, 256))))},
    {"strength": 0},
    {"strength": -0.5},
    {"strength": 1.01},
    {"strength": "nan"},
    {"strength": "much"},
    {"strength": None},
    {"strength": 0.04},
    {"width": 250},
    {"height": 10**400},
    {"scheduler": "fast"},
    {"clip_skip": 3},
    {"output_format": "gif"},
]


@pytest.mark.parametrize("path", [IMG2IMG, BASE])
@pytest.mark.parametrize("bad", BAD, ids=lambda bad: str(bad)[:40])
def test_a_bad_field_beside_a_picture_is_named(api: APIClient, path: str, bad: dict[str, Any]) -> None:
    """Nothing is kept: neither a row nor a file."""
    assert params_of(api.post(path, WITH_MASK | {"steps": 20} | bad)) == set(bad)
    assert (Generation.objects.count(), kept()) == (0, [])


def test_a_picture_that_is_none_has_a_code_of_its_own(api: APIClient) -> None:
    """Beside other bad fields."""
    errors = api.post(IMG2IMG, {"prompt": "", "image": "?"}).json()["errors"]
    assert {(error["param"], error["code"]) for error in errors} == {
        ("prompt", "blank"),
        ("image", "invalid_image"),
    }


def test_fitting_is_said_and_strict_refuses_it(api: APIClient) -> None:
    """With `strict` nothing is kept."""
    request = WITH_PICTURE | {"width": 512, "height": 256}
    answer = api.post(BASE, request).json()
    assert [(warning["param"], warning["used"]) for warning in answer["warnings"]] == [("image", "512x256")]
    assert decoded(api.get(answer["urls"]["input"]).content).size == (512, 256)
    refused = api.post(BASE, request | {"strict": True})
    assert (refused.status_code, refused.json()["errors"][0]["param"]) == (422, "image")
    assert (Generation.objects.count(), len(kept())) == (1, 1)
    exact = api.post(BASE, WITH_PICTURE | {"strict": True})
    assert (exact.status_code, exact.json()["strict"]) == (202, True)


def test_the_size_comes_from_the_picture(api: APIClient) -> None:
    """Where it is left out; within the model's limits, and that is said."""
    image = text_of(encoded(gradient(400, 300)))
    mask = text_of(encoded(mask_of(gradient(400, 300))))
    answer = api.post(BASE, {"prompt": "a", "image": image, "mask_image": mask, "model": "sd-1-5"}).json()
    assert (answer["width"], answer["height"], answer["warnings"][0]["used"]) == (680, 512, "680x512")
    assert decoded(api.get(answer["urls"]["mask"]).content).size == (680, 512)
    half = api.post(BASE, {"prompt": "a", "image": image, "model": "sd-1-5", "width": 640}).json()
    assert (half["width"], half["height"]) == (640, 512)
    assert api.post(BASE, WITH_PICTURE).json()["warnings"] == []


def test_a_black_mask_is_warned_about(api: APIClient) -> None:
    """It would draw nothing anew."""
    black = text_of(encoded(mask_of(gradient(256, 256)).point(lambda value: 0)))
    warnings = api.post(BASE, WITH_PICTURE | {"mask_image": black}).json()["warnings"]
    assert [(warning["param"], warning["used"]) for warning in warnings] == [("mask_image", None)]


@pytest.mark.parametrize(
    ("family", "steps", "strength", "runs"),
    [
        ("sd1", 10, 0.8, 8),
        ("sd1", 10, 0.75, 7),
        ("sdxl", 7, 0.5, 3),
        ("sd3", 10, 0.75, 8),
        ("flux", 7, 0.5, 4),
        ("sd3", 28, 0.6, 17),
        ("sd3", 10, 1.0, 10),
    ],
)
def test_total_steps_are_those_that_run(
    api: APIClient, family: str, steps: int, strength: float, runs: int
) -> None:
    """Rounded as each family's pipeline does; progress then ends at 100 percent."""
    Checkpoint.objects.filter(id="sd-1-5").update(family=family)
    image = {"image": text_of(encoded(gradient(512, 512))), "model": "sd-1-5"}
    answer = api.post(BASE, {"prompt": "a", "steps": steps, "strength": strength} | image).json()
    assert (answer["num_inference_steps"], answer["total_steps"]) == (steps, runs)


@pytest.mark.parametrize(
    ("scheduler", "steps", "strength", "asked"),
    [
        ("heun", 10, None, 19),
        ("dpm2_a_karras", 10, 0.75, 13),
        ("dpm2", 1, None, 1),
        ("plms", 10, None, 11),
        ("plms_trailing", 10, 0.5, 6),
        ("plms", 1, None, 1),
        ("dpmpp_sde", 10, None, 10),
    ],
)
def test_total_steps_count_what_a_scheduler_does_twice(
    api: APIClient, scheduler: str, steps: int, strength: float | None, asked: int
) -> None:
    """Since progress counts it, and it takes as long."""
    request = {"prompt": "a", "model": "sd-1-5", "scheduler": scheduler, "steps": steps}
    if strength is not None:
        request |= {"strength": strength, "image": text_of(encoded(gradient(512, 512)))}
    answer = api.post(BASE, request).json()
    assert (answer["num_inference_steps"], answer["total_steps"]) == (steps, asked)


@pytest.mark.parametrize(
    ("scheduler", "few", "many"),
    [("lcm", 1, 50), ("tcd", 1, 50), ("euler_leading", 2, 100), ("lms_karras", 2, 100), ("euler", 1, 100)],
)
def test_steps_that_a_scheduler_cannot_do_are_refused(
    api: APIClient, scheduler: str, few: int, many: int
) -> None:
    """Before anything is queued, with the numbers that it can."""
    for steps in (few - 1, few, many, many + 1):
        response = api.post(BASE, {"prompt": "a", "model": "sd-1-5", "scheduler": scheduler, "steps": steps})
        if few <= steps <= many:
            assert response.status_code == 202
        else:
            assert response.status_code == 400
            assert params_of(response) <= {"num_inference_steps", "steps"}


def test_at_least_one_step_must_run(api: APIClient) -> None:
    """Of most families int(steps x strength) of them do."""
    for steps, strength, status in ((10, 0.1, 202), (10, 0.09, 400), (1, 0.99, 400), (1, 1.0, 202)):
        response = api.post(BASE, WITH_PICTURE | {"steps": steps, "strength": strength})
        assert response.status_code == status
        if status == 400:
            assert params_of(response) == {"strength"}


@pytest.mark.parametrize(
    ("family", "few"), [(Family.SD1, 400), (Family.SDXL, 400), (Family.SD3, 202), (Family.FLUX, 202)]
)
def test_steps_are_counted_as_the_familys_pipeline_rounds(api: APIClient, family: str, few: int) -> None:
    """Pipelines of flow models run a step that has begun; what is refused is what would draw nothing."""
    Checkpoint.objects.filter(id="sd-1-5").update(family=family)
    request = WITH_PICTURE | {"model": "sd-1-5", "width": 512, "height": 512}
    answer = api.post(BASE, request | {"steps": 1, "strength": 0.8})
    assert answer.status_code == few, answer.content
    assert api.post(BASE, request | {"steps": 2, "strength": 0.8}).status_code == 202


@pytest.mark.parametrize("family", Family.values)
def test_each_family_has_its_schedulers_and_its_clip_skip(api: APIClient, family: str) -> None:
    """A scheduler that does not fit is refused with those that do; clip_skip that does nothing is a warning."""
    Checkpoint.objects.filter(id="sd-1-5").update(family=family)
    facts = FAMILY_FACTS[family]
    request = {"prompt": "a", "model": "sd-1-5"}
    for scheduler in ("", "ddim", "euler"):
        response = api.post(BASE, request | {"scheduler": scheduler})
        if not scheduler or scheduler in facts.schedulers:
            assert (response.status_code, response.json()["scheduler"]) == (202, scheduler)
        else:
            assert params_of(response) == {"scheduler"}
            assert all(name in response.json()["detail"] for name in facts.schedulers)
    most = api.post(BASE, request | {"clip_skip": facts.max_clip_skip or 99})
    assert most.json()["clip_skip"] == (facts.max_clip_skip or None)
    assert (
        [warning["param"] for warning in most.json()["warnings"]] == []
        if facts.max_clip_skip
        else ["clip_skip"]
    )
    more = api.post(BASE, request | {"clip_skip": facts.max_clip_skip + 1, "strict": True})
    if facts.max_clip_skip:
        assert params_of(more) == {"clip_skip"}
    else:
        assert (more.status_code, more.json()["errors"][0]["param"]) == (422, "clip_skip")


def test_a_page_of_pictures_costs_no_query_more(api: APIClient, django_assert_num_queries: Any) -> None:
    """Two queries, as for txt2img."""
    for request in (WITH_PICTURE, WITH_MASK, WITH_MASK):
        api.post(BASE, request)
    with django_assert_num_queries(3):
        assert len(api.get(BASE).json()["results"]) == 3


def test_capabilities_say_what_can_be_asked_for(api: APIClient, settings: Any) -> None:
    """To those who may ask."""
    assert APIClient().get("/api/v1/capabilities").status_code == 401
    settings.MAX_TIMEOUT_S = 77
    answer = api.get("/v1/capabilities/").json()
    assert answer["kinds"] == ["txt2img", "img2img", "inpaint", "edit"]
    assert answer["families"]["sd3"] == {
        "schedulers": list(FAMILY_FACTS["sd3"].schedulers),
        "max_clip_skip": 0,
    }
    assert set(answer["families"]) == set(Family.values)
    assert answer["output_formats"] == ["png", "jpeg", "webp"]
    assert "builtin" in answer["models"]
    limits = answer["limits"]
    assert (limits["max_picture_pixels"], limits["max_picture_bytes"]) == (16_000_000, 10 << 20)
    assert (limits["max_timeout_s"], limits["max_body_bytes"]) == (77, django_settings.MAX_BODY_BYTES)
    assert answer["dialects"] == ["native", "openai", "huggingface", "a1111"]
