"""Hugging Face Inference's contract: text or a picture in, a picture's bytes out."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from generation.models import Worker
from generation.pictures.files import image_read
from models_registry.models import Checkpoint
from tests.support.dialects import finish, made, nothing_stored, warned
from tests.support.pictures import MASK, PICTURE, text_of

URL = "/hf/builtin"

pytestmark = pytest.mark.django_db


def error_of(response: Any, status: int) -> str:
    """The sentence."""
    assert response.status_code == status, response.content
    assert set(response.json()) == {"error", "error_type"}
    return str(response.json()["error"])


def raw(api: APIClient, body: Any, content_type: str = "image/png", **headers: str) -> Any:
    """Bytes, as they are."""
    return api.generic("POST", URL, body, content_type=content_type, headers=headers)


def test_text_becomes_a_picture(api: APIClient) -> None:
    """With parameters of the task and the others that are the service's own."""
    parameters = {
        "negative_prompt": "blue",
        "width": 320,
        "height": 256,
        "num_inference_steps": 5,
        "guidance_scale": 2.5,
        "seed": 9,
        "scheduler": "EulerAncestralDiscreteScheduler",
        "clip_skip": 1,
        "num_images_per_prompt": 1,
    }
    generation = made(api.post(URL, {"inputs": "a red circle", "parameters": parameters}))
    assert (generation.kind, generation.prompt, generation.seed) == ("txt2img", "a red circle", 9)
    assert (generation.width, generation.height, generation.num_inference_steps) == (320, 256, 5)
    assert (generation.scheduler, generation.clip_skip, generation.output_format) == ("euler_a", 1, "png")


def test_a_repository_name_is_a_model_too(api: APIClient) -> None:
    name = Checkpoint.objects.get(id="sd-xl-base").repository
    assert made(api.post(f"/hf/{name}", {"inputs": "a"})).checkpoint_id == "sd-xl-base"


def test_a_picture_becomes_a_picture(api: APIClient) -> None:
    """As base64 with a prompt and a size that is not square, or as bytes alone."""
    parameters = {"prompt": "a star", "target_size": {"width": 384, "height": 256}, "strength": 0.5}
    generation = made(api.post(URL, {"inputs": text_of(PICTURE), "parameters": parameters}))
    assert (generation.kind, generation.prompt, generation.strength) == ("img2img", "a star", 0.5)
    assert (generation.width, generation.height) == (384, 256)
    for content_type in ("image/png", "application/octet-stream", ""):
        by_bytes = made(raw(api, PICTURE, content_type))
        assert (by_bytes.kind, by_bytes.prompt, by_bytes.width) == ("img2img", "", 256)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("image/png", "png"),
        ("image/jpeg", "jpeg"),
        ("image/webp, */*", "webp"),
        ("*/*", "png"),
        ("application/json", "png"),
        ("text/html, image/jpeg;q=0.5", "jpeg"),
    ],
)
def test_accept_chooses_the_format(api: APIClient, accept: str, expected: str) -> None:
    assert made(api.post(URL, {"inputs": "a"}, headers={"accept": accept})).output_format == expected


def test_old_options_are_taken_with_a_word(api: APIClient) -> None:
    body = {"inputs": "a", "options": {"wait_for_model": True, "use_cache": True}}
    assert warned(made(api.post(URL, body))) == {"use_cache"}


def test_all_that_is_wrong_is_named_at_once(api: APIClient) -> None:
    body = {"parameters": {"steps": 5, "width": 8, "target_size": 5}, "options": {"x": 1}}
    said = error_of(api.post(URL, body), 400)
    names = ("inputs", "parameters.steps", "parameters.width", "parameters.target_size", "options.x")
    assert [name for name in names if f"{name}: " not in said] == []


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "inputs"),
        ({"inputs": ""}, "inputs"),
        ({"inputs": 5.5, "parameters": {"prompt": "a"}}, "inputs"),
        ({"inputs": "not base64!", "parameters": {"prompt": "a"}}, "inputs"),
        ({"inputs": "a", "parameters": {"steps": 5}}, "parameters.steps"),
        ({"inputs": "a", "parameters": {"width": 8}}, "parameters.width"),
        ({"inputs": "a", "parameters": {"guidance_scale": 0}}, "parameters.guidance_scale"),
        ({"inputs": "a", "parameters": {"num_images_per_prompt": 2}}, "parameters.num_images_per_prompt"),
        ({"inputs": "a", "parameters": {"scheduler": "Nope"}}, "parameters.scheduler"),
        ({"inputs": "a", "parameters": {"target_size": 5}}, "parameters.target_size"),
        ({"inputs": "a", "parameters": {"target_size": {"depth": 5}}}, "parameters.target_size.depth"),
        ({"inputs": "a", "parameters": [1]}, "parameters"),
        ({"inputs": "a", "options": {"x": 1}}, "options.x"),
        ({"inputs": "a", "prompt": "b"}, "prompt"),
        ([], "object"),
    ],
)
def test_bad_requests_are_named(api: APIClient, body: Any, named: str) -> None:
    assert named in error_of(api.post(URL, body), 400)
    assert nothing_stored()


def test_errors_have_their_shape(api: APIClient) -> None:
    assert "org/none" in error_of(api.post("/hf/org/none", {"inputs": "a"}), 404)
    error_of(api.post(URL, {"inputs": "a"}, headers={"accept": "image/gif"}), 406)
    error_of(APIClient().post(URL, {"inputs": "a"}), 401)
    error_of(api.get("/hf/a/b/c"), 404)
    error_of(raw(api, b"no picture"), 400)
    error_of(raw(api, b""), 400)
    assert nothing_stored()


def test_the_same_key_makes_one_job(api: APIClient) -> None:
    """Of the same bytes; other bytes are a conflict that names the first job."""
    first = made(raw(api, PICTURE, **{"Idempotency-Key": "k"}))
    assert made(raw(api, PICTURE, **{"Idempotency-Key": "k"})).id == first.id
    other = raw(api, MASK, **{"Idempotency-Key": "k"})
    assert str(first.id) in error_of(other, 409)
    assert other["X-Job-Id"] == str(first.id)


def test_the_result_is_the_file(api: APIClient, worker: Worker, stranger: User) -> None:
    """For whoever may see it."""
    generation = finish(made(api.post(URL, {"inputs": "a"})), worker)
    response = api.get(f"/hf/results/{generation.id}", headers={"accept": "image/png"})
    assert (response["Content-Type"], response["X-Job-Id"]) == ("image/png", str(generation.id))
    assert response.content == image_read(generation.images.get())
    other = APIClient()
    other.force_authenticate(stranger)
    error_of(other.get(f"/hf/results/{generation.id}"), 404)


def test_health_wants_a_worker(api: APIClient) -> None:
    assert "worker" in error_of(APIClient().get(f"{URL}/health"), 503)


def test_health_and_info(worker: Worker) -> None:
    assert APIClient().get(f"{URL}/health").json()["status"] == "ok"
    info = APIClient().get("/hf/sd-xl-base/info").json()
    assert (info["model_id"], info["model_pipeline_tag"]) == (
        "stabilityai/stable-diffusion-xl-base-1.0",
        "text-to-image",
    )
    error_of(APIClient().get("/hf/nothing/info"), 404)
