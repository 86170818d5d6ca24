"""The step cache at the doors: asked for, kept, told, and refused where a model has none."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from generation.gpu_worker.batch import batch_of
from generation.models import Generation
from generation.services import generation_cancel
from models_registry.models import Checkpoint
from tests.support.pictures import params_of

pytestmark = pytest.mark.django_db
BASE = "/api/v1/generations"
REQUEST = {"prompt": "a red circle", "width": 256, "height": 256}
FAST = {"acceleration": "first_block_cache"}


@pytest.fixture
def flux() -> str:
    """The id of a model that takes it."""
    return Checkpoint.objects.create(
        id="flux", name="flux", repository="org/flux", family="flux", licence="mit", pipeline="FluxPipeline",
        min_size=64, max_size=1024,
    ).id  # fmt: skip


def test_it_is_asked_for_and_kept(api: APIClient, flux: str) -> None:
    """None where nothing is said; a retry asks for it again, and it is drawn alone."""
    plain = api.post(BASE, REQUEST | {"model": flux}).json()
    made = api.post(BASE, REQUEST | FAST | {"model": flux})
    assert (made.status_code, made.json()["warnings"]) == (202, []), made.content
    assert (plain["acceleration"], made.json()["acceleration"]) == ("none", "first_block_cache")
    generation = Generation.objects.get(pk=made.json()["id"])
    assert batch_of(generation).acceleration == "first_block_cache"
    assert (bool(Generation.objects.get(pk=plain["id"]).batch_key), generation.batch_key) == (True, "")
    generation_cancel(generation=generation)
    again = api.post(f"{BASE}/{generation.id}/retry").json()
    assert again["acceleration"] == "first_block_cache"


def test_it_is_a_part_of_the_request(api: APIClient, flux: str) -> None:
    """Under the same key it is another one."""
    key = {"Idempotency-Key": "one"}
    assert api.post(BASE, REQUEST | {"model": flux}, headers=key).status_code == 202
    again = api.post(BASE, REQUEST | FAST | {"model": flux}, headers=key)
    assert (again.status_code, again.json()["code"]) == (409, "idempotency_conflict")


@pytest.mark.parametrize(
    ("pipeline", "family"),
    [
        ("StableDiffusionPipeline", "sd1"),
        ("StableDiffusionPipeline", "sd2"),
        ("StableDiffusionXLPipeline", "sdxl"),
        ("StableDiffusion3Pipeline", "sd3"),
        ("Flux2KleinPipeline", "flux2"),
        ("ChromaPipeline", "chroma"),
        ("", "sdxl"),
    ],
)
def test_a_model_without_it_refuses_it(api: APIClient, flux: str, pipeline: str, family: str) -> None:
    """Naming the field, what to do, and which models take it; beside other mistakes, with them."""
    Checkpoint.objects.filter(pk=flux).update(pipeline=pipeline, family=family)
    body = REQUEST | FAST | {"model": flux}
    answer = api.post(BASE, body)
    assert (answer.status_code, answer.json()["code"]) == (422, "acceleration_unsupported")
    assert answer.json()["errors"][0]["param"] == "acceleration"
    assert "flux cannot be drawn with first_block_cache: leave acceleration out." in answer.json()["detail"]
    assert "`takes.first_block_cache` of GET /api/v1/models" in answer.json()["detail"]
    assert api.post(BASE, body | {"acceleration": "none"}).status_code == 202
    assert params_of(api.post(BASE, body | {"width": 77})) == {"acceleration", "width"}


@pytest.mark.parametrize("word", ["fast", "", "FIRST_BLOCK_CACHE", None, 1, ["first_block_cache"]])
def test_an_unknown_word_is_refused(api: APIClient, flux: str, word: Any) -> None:
    assert params_of(api.post(BASE, REQUEST | {"model": flux, "acceleration": word})) == {"acceleration"}


def test_a_repository_that_nobody_has_looked_at_may_have_it(api: APIClient, flux: str) -> None:
    """Nothing is refused that may turn out to be right."""
    Checkpoint.objects.filter(pk=flux).update(pipeline="", family="other")
    assert api.post(BASE, REQUEST | FAST | {"model": flux}).status_code == 202


def test_models_say_whether_they_take_it(api: APIClient, flux: str) -> None:
    rows = {row["id"]: row["takes"]["first_block_cache"] for row in api.get("/api/v1/models").json()["data"]}
    assert (rows[flux], rows["builtin"]) == (True, False)
    pipelines = api.get("/api/v1/capabilities").json()["pipelines"]
    assert pipelines["QwenImagePipeline"]["first_block_cache"]
    assert not pipelines["StableDiffusionXLPipeline"]["first_block_cache"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/images/generations", FAST | {"prompt": "a", "model": "flux", "size": "256x256"}),
        ("/hf/flux", {"inputs": "a", "parameters": FAST}),
        ("/sdapi/v1/txt2img", FAST | {"prompt": "a", "override_settings": {"sd_model_checkpoint": "flux"}}),
    ],
    ids=["openai", "huggingface", "a1111"],
)
def test_dialects_do_not_know_it(api: APIClient, flux: str, path: str, body: dict[str, Any]) -> None:
    """And do with it what they do with any word that they do not know: A1111's goes on, the others refuse it."""
    answer = api.post(path, body, headers={"Prefer": "respond-async"})
    if path.startswith("/sdapi"):
        generation = Generation.objects.get()
        assert (answer.status_code, generation.acceleration) == (202, "none")
        assert "acceleration" in [warning["param"] for warning in generation.warnings]
    else:
        assert (answer.status_code, Generation.objects.count()) == (400, 0)
        assert "acceleration: Unknown parameter." in answer.content.decode()
