"""The native API on rows that a worker ended: routes, shapes, ownership, paging and query counts."""

import base64
import hashlib
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.core.files.storage import default_storage
from pytest_django import DjangoAssertNumQueries, Settings
from rest_framework.test import APIClient

from generation.attempts import attempt_fail, generation_claim
from generation.choices import ErrorCode, Status
from generation.models import Generation, Worker
from generation.services import generation_cancel
from models_registry.models import Checkpoint
from tests.support.endings import drawn_picture, succeed
from tests.support.factories import GenerationMaker, client_of

BASE = "/api/v1/generations"


def finished(make: GenerationMaker, worker: Worker, **changes: Any) -> Generation:
    """A generation that succeeded."""
    make(**changes)
    generation = generation_claim(worker=worker)
    assert generation is not None
    assert succeed(generation)
    generation.refresh_from_db()
    return generation


@pytest.mark.parametrize("mount", ["/api/v1", "/v1"])
@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("route", ["generations", "generate/txt2img", "txt2img"])
def test_creating_answers_202_with_the_address(api: APIClient, mount: str, route: str, slash: str) -> None:
    """On both mounts, under each name, with a trailing slash or none."""
    response = api.post(
        f"{mount}/{route}{slash}", {"prompt": "a red circle"}, headers={"Prefer": "respond-async"}
    )
    assert response.status_code == 202
    generation = Generation.objects.get()
    assert response["Location"] == f"{BASE}/{generation.id}"
    assert response["X-Job-Id"] == str(generation.id)
    assert api.get(response["Location"]).json()["status"] == "queued"


def test_defaults_are_the_models(api: APIClient) -> None:
    """What a request leaves out, its model decides; nothing is hidden."""
    body = api.post(BASE, {"prompt": " a  red circle", "model_id": "sd-2-1"}).json()
    model = Checkpoint.objects.get(id="sd-2-1")
    assert body["model"] == "sd-2-1"
    assert (body["width"], body["height"]) == (model.default_width, model.default_height)
    assert body["num_inference_steps"] == body["total_steps"] == model.default_steps
    assert body["guidance_scale"] == model.default_guidance_scale
    assert body["warnings"] == []
    assert 0 <= body["seed"] < 2**32


@pytest.mark.parametrize(
    ("configured", "default_row", "expected"),
    [
        ("", None, "builtin"),
        ("", "sd-1-5", "sd-1-5"),
        ("sd-2-1", "sd-1-5", "sd-2-1"),
        ("stabilityai/stable-diffusion-xl-base-1.0", None, "sd-xl-base"),
    ],
)
def test_the_default_model(
    api: APIClient, settings: Settings, configured: str, default_row: str | None, expected: str
) -> None:
    """DEFAULT_MODEL_ID (id or repository), else the default row, else the built-in; the list of models says which."""
    settings.DEFAULT_MODEL_ID = configured
    Checkpoint.objects.filter(id=default_row).update(is_default=True)
    assert api.post(BASE, {"prompt": "a"}).json()["model"] == expected
    assert defaults_listed(api) == [expected]
    assert api.get(f"/api/v1/models/{expected}").json()["is_default"] is True


def defaults_listed(api: APIClient) -> list[str]:
    """The ids of the models that are shown as the default."""
    models = api.get("/api/v1/models").json()["data"]
    return [model["id"] for model in models if model["is_default"]]


def test_a_misconfigured_default_model_is_a_clear_refusal(api: APIClient, settings: Settings) -> None:
    """Not a 500; and no model is shown as the default."""
    settings.DEFAULT_MODEL_ID = "gone"
    response = api.post(BASE, {"prompt": "a"})
    assert response.status_code == 400
    assert response.json()["errors"][0]["code"] == "model_not_found"
    assert defaults_listed(api) == []


def test_a_repository_name_is_a_model_too(api: APIClient) -> None:
    """In `model` and in `model_id`."""
    for field in ("model", "model_id"):
        body = api.post(BASE, {"prompt": "a", field: "stable-diffusion-v1-5/stable-diffusion-v1-5"}).json()
        assert body["model"] == "sd-1-5"


def test_what_is_adjusted_is_said(api: APIClient, settings: Settings) -> None:
    """As warnings; with `strict` it is refused and nothing is written."""
    settings.MAX_TIMEOUT_S = 100
    request = {"prompt": "a", "timeout_s": 500, "guidance_scale": 1.0, "negative_prompt": "b"}
    body = api.post(BASE, request).json()
    assert body["timeout_s"] == 100
    assert {(warning["param"], warning["used"]) for warning in body["warnings"]} == {
        ("timeout_s", 100),
        ("negative_prompt", None),
    }
    Generation.objects.all().delete()
    refused = api.post(BASE, request | {"strict": True})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["param"] == "timeout_s"
    assert len(refused.json()["warnings"]) == 2
    assert not Generation.objects.exists()
    assert api.post(BASE, {"prompt": "a", "strict": True}).status_code == 202


def test_a_finished_generation_gives_its_picture(
    api: APIClient, make: GenerationMaker, worker: Worker
) -> None:
    """As bytes with a strong ETag, and as base64 in the result."""
    generation = finished(make, worker)
    body = api.get(f"{BASE}/{generation.id}/").json()
    image = body["images"][0]
    picture = api.get(image["url"])
    assert picture["Content-Type"] == "image/png"
    assert hashlib.sha256(picture.content).hexdigest() == image["sha256"]
    assert picture["ETag"] == f'"{image["sha256"]}"'
    assert "private" in picture["Cache-Control"]
    assert api.get(image["url"], headers={"If-None-Match": picture["ETag"]}).status_code == 304
    for accepted in ("image/png", "image/webp", "image/*"):
        assert api.get(image["url"], headers={"Accept": accepted}).status_code == 200
    result = api.get(f"{BASE}/{generation.id}/result").json()
    assert base64.b64decode(result["images"][0]["b64_json"]) == picture.content
    assert (result["seed"], body["percent"], body["latency_ms"]) == (7, 100.0, 12)


def test_a_missing_picture_is_404(api: APIClient, make: GenerationMaker, worker: Worker) -> None:
    """With a code of its own."""
    generation = finished(make, worker)
    response = api.get(f"{BASE}/{generation.id}/images/1")
    assert (response.status_code, response.json()["code"]) == (404, "image_not_found")
    assert api.get(f"{BASE}/{make().id}/images/0").status_code == 404
    default_storage.delete(str(generation.images.get().file.name))
    for path in ("images/0", "result"):
        assert api.get(f"{BASE}/{generation.id}/{path}").json()["code"] == "image_not_found"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("timeout", 504),
        ("out_of_memory", 507),
        ("worker_lost", 503),
        ("model_unavailable", 503),
        ("engine_error", 500),
        ("unsafe", 422),
        ("would_be_adjusted", 422),
    ],
)
def test_a_failed_generations_result_is_its_problem(
    api: APIClient, make: GenerationMaker, worker: Worker, code: str, status: int
) -> None:
    """With the code of the failure and the job's id."""
    generation = make()
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    attempt_fail(generation=claimed, code=ErrorCode(code), detail="because")
    response = api.get(f"{BASE}/{generation.id}/result")
    assert (response.status_code, response.json()["code"], response.json()["detail"]) == (
        status,
        code,
        "because",
    )
    assert response.json()["job_id"] == str(generation.id)
    assert api.get(f"{BASE}/{generation.id}").json()["error"] == {"code": code, "detail": "because"}


def test_the_result_of_an_unfinished_or_canceled_generation_is_409(
    api: APIClient, make: GenerationMaker
) -> None:
    """With a code that tells them apart."""
    generation = make()
    assert api.get(f"{BASE}/{generation.id}/result").json()["code"] == "generation_active"
    assert api.post(f"{BASE}/{generation.id}/cancel").json()["status"] == "canceled"
    response = api.get(f"{BASE}/{generation.id}/result")
    assert (response.status_code, response.json()["code"]) == (409, "canceled")
    again = api.post(f"{BASE}/{generation.id}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "generation_ended")


def test_retry_replay_and_receipt(api: APIClient, make: GenerationMaker, worker: Worker) -> None:
    """Each where it makes sense, 409 where it does not."""
    generation = make()
    for action in ("retry", "replay"):
        assert api.post(f"{BASE}/{generation.id}/{action}").status_code == 409
    assert api.get(f"{BASE}/{generation.id}/receipt").json()["code"] == "no_receipt"
    succeed(generation_claim(worker=worker) or generation)
    receipt = api.get(f"{BASE}/{generation.id}/receipt").json()
    assert receipt["request"]["seed"] == 7
    assert receipt["images"][0]["sha256"]
    assert receipt["timings"]["latency_ms"] == 12
    retry = api.post(f"{BASE}/{generation.id}/retry")
    assert (retry.status_code, retry.json()["retry_of"]) == (202, str(generation.id))
    replay = api.post(f"{BASE}/{generation.id}/replay").json()
    assert (replay["replay_of"], replay["reproducible"]) == (str(generation.id), True)


def test_delete_removes_row_and_picture(api: APIClient, make: GenerationMaker, worker: Worker) -> None:
    """And a second delete finds nothing."""
    generation = finished(make, worker)
    assert api.delete(f"{BASE}/{generation.id}").status_code == 204
    assert api.delete(f"{BASE}/{generation.id}").status_code == 404
    assert not Generation.objects.exists()


OWNED_ROUTES = [
    ("get", ""),
    ("delete", ""),
    ("post", "/cancel"),
    ("post", "/retry"),
    ("post", "/replay"),
    ("get", "/receipt"),
    ("get", "/result"),
    ("get", "/images/0"),
]


@pytest.mark.parametrize(("method", "path"), OWNED_ROUTES)
def test_what_is_somebody_elses_does_not_exist(
    make: GenerationMaker, worker: Worker, stranger: User, staff: User, method: str, path: str
) -> None:
    """404 for a stranger, 401 for nobody, not refused to staff."""
    generation = finished(make, worker)
    url = f"{BASE}/{generation.id}{path}"
    assert getattr(APIClient(), method)(url).status_code == 401
    response = getattr(client_of(stranger), method)(url)
    assert (response.status_code, response.json()["code"]) == (404, "generation_not_found")
    assert getattr(client_of(staff), method)(url).status_code < 500
    assert getattr(client_of(staff), method)(f"{BASE}/{uuid4()}{path}").status_code == 404


def test_lists_show_ones_own(api: APIClient, make: GenerationMaker, stranger: User, staff: User) -> None:
    """Staff see everything."""
    make()
    make(owner=stranger)
    assert {row["owner"] for row in api.get(BASE).json()["results"]} == {"ada"}
    assert {row["owner"] for row in client_of(staff).get(BASE).json()["results"]} == {"ada", "bob"}


def test_pages_follow_a_cursor_and_stay_stable(api: APIClient, make: GenerationMaker) -> None:
    """Newest first; rows that arrive meanwhile shift nothing."""
    ids = [str(make().id) for _ in range(5)][::-1]
    page = api.get(BASE, {"limit": 2}).json()
    make()
    seen = [row["id"] for row in page["results"]]
    while page["next"]:
        page = api.get(page["next"]).json()
        seen += [row["id"] for row in page["results"]]
    assert seen == ids
    assert api.get(BASE, {"cursor": "bm9uc2Vuc2U="}).status_code in {200, 404}


def test_filters(api: APIClient, make: GenerationMaker) -> None:
    """By status (repeatable), kind, model and date; a bad value is 400 and named."""
    first, second = make(), make(checkpoint=Checkpoint.objects.get(id="sd-1-5"), width=512, height=512)
    generation_cancel(generation=first)

    def found(**query: Any) -> set[str]:
        return {row["id"] for row in api.get(BASE, query).json()["results"]}

    assert found(status="canceled") == {str(first.id)}
    assert found(status=["canceled", "queued"]) == {str(first.id), str(second.id)}
    assert found(model="sd-1-5") == {str(second.id)}
    assert found(kind="txt2img") == {str(first.id), str(second.id)}
    assert found(created_after=second.created_at.isoformat()) == {str(second.id)}
    assert found(created_before=second.created_at.isoformat()) == {str(first.id)}
    for query in ({"status": "lost"}, {"kind": "video"}, {"created_after": "yesterday"}):
        response = api.get(BASE, query)
        assert response.status_code == 400
        assert {error["param"] for error in response.json()["errors"]} == set(query)


def test_a_page_costs_the_same_however_many_rows_it_has(
    api: APIClient, make: GenerationMaker, worker: Worker, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    """Three queries: the rows with owner and model, their pictures, and their adapters."""
    for count in (1, 6):
        for _ in range(count):
            finished(make, worker)
        with django_assert_num_queries(3):
            assert api.get(BASE).status_code == 200


def test_a_list_of_models_costs_the_same_however_many_there_are(
    api: APIClient, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    """Three queries: the models, the default one, and the workers."""
    for _ in range(2):
        with django_assert_num_queries(3):
            assert api.get("/api/v1/models").status_code == 200
        Checkpoint.objects.update(enabled=True)


def test_models_are_open_to_all_in_openais_shape(db: None) -> None:
    """Without a token; each with its limits and defaults."""
    for path in ("/api/v1/models", "/v1/models/"):
        body = APIClient().get(path).json()
        assert body["object"] == "list"
        assert {"builtin", "sd-1-5", "sd-2-1", "sd-xl-base"} <= {model["id"] for model in body["data"]}
    model = APIClient().get("/v1/models/sd-xl-base").json()
    assert (model["object"], model["owned_by"]) == ("model", "stabilityai")
    assert isinstance(model["created"], int)
    assert model["defaults"]["width"] == 1024
    by_repository = APIClient().get("/api/v1/models/stabilityai/stable-diffusion-xl-base-1.0")
    assert by_repository.json()["id"] == "sd-xl-base"
    missing = APIClient().get("/api/v1/models/none")
    assert (missing.status_code, missing.json()["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/nothing", "/api/v1/generations/not-a-uuid"])
def test_unknown_paths_are_problems(api: APIClient, path: str) -> None:
    """Also outside the API."""
    response = api.get(path)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_a_wrong_method_is_405(api: APIClient, make: GenerationMaker) -> None:
    """In the problem's shape."""
    response = api.put(f"{BASE}/{make().id}", {})
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")


def test_the_browsable_pages_render(api: APIClient, make: GenerationMaker, worker: Worker) -> None:
    """Lists, details, forms, and the root with its links."""
    generation = finished(make, worker)
    for path in (BASE, f"{BASE}/{generation.id}", "/api/v1/generate/txt2img", "/api/v1/models", "/api/v1/"):
        response = api.get(path, headers={"Accept": "text/html"})
        assert response.status_code in {200, 405}, path
        assert response["Content-Type"].startswith("text/html")


def test_every_answer_carries_the_request_id(api: APIClient) -> None:
    """The client's own where it is harmless, else a new one; errors repeat it in the body."""
    assert api.get(BASE, headers={"X-Request-Id": "abc-1"})["X-Request-Id"] == "abc-1"
    assert api.get(BASE, headers={"X-Request-Id": "a b\n"})["X-Request-Id"] != "a b\n"
    response = api.post(BASE, {}, headers={"X-Request-Id": "abc-2"})
    assert response.json()["request_id"] == "abc-2"


def test_status_words_are_the_apis(api: APIClient, make: GenerationMaker) -> None:
    """The words of a row are the words of the API."""
    make()
    assert api.get(BASE).json()["results"][0]["status"] in set(Status)


@pytest.mark.parametrize(
    ("accept", "body", "blamed"),
    [
        ("image/png", {"num_images": 2}, {"num_images"}),
        ("image/webp", {}, {"output_format"}),
        ("image/png", {"output_format": "webp", "num_images": "3"}, {"output_format", "num_images"}),
    ],
)
def test_a_picture_as_the_answer_is_one_of_the_kind_that_is_accepted(
    api: APIClient, accept: str, body: dict[str, Any], blamed: set[str]
) -> None:
    """Anything else is refused, in JSON."""
    answer = api.post("/api/v1/generate/txt2img", {"prompt": "a"} | body, headers={"Accept": accept})
    assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json")
    assert {error["param"] for error in answer.json()["errors"]} == blamed
    assert not Generation.objects.exists()


@pytest.mark.parametrize(
    ("accept", "output_format"), [("image/png", "png"), ("image/webp", "webp"), ("image/*", "jpeg")]
)
def test_what_is_not_a_picture_is_json_whatever_is_accepted(
    api: APIClient, accept: str, output_format: str
) -> None:
    """For instance the answer to whoever does not want to wait."""
    headers = {"Accept": accept, "Prefer": "respond-async"}
    body = {"prompt": "a", "output_format": output_format}
    answer = api.post("/api/v1/generate/txt2img", body, headers=headers)
    assert (answer.status_code, answer["Content-Type"]) == (202, "application/json")
    assert answer.json()["status"] == "queued"


def test_several_pictures_are_no_picture(api: APIClient, make: GenerationMaker, worker: Worker) -> None:
    """One is answered as it is stored; where there are more, JSON has them."""
    for number, expected in ((1, (200, "image/png")), (2, (406, "application/problem+json"))):
        make(num_images=number)
        generation = generation_claim(worker=worker)
        assert generation is not None
        images = [
            replace(drawn_picture(colour), index=i) for i, colour in enumerate(("red", "blue")[:number])
        ]
        assert succeed(generation, images=images)
        address = f"/api/v1/generations/{generation.id}"
        answer = api.get(f"{address}/result", headers={"Accept": "image/png"})
        assert (answer.status_code, answer["Content-Type"]) == expected
        if number == 1:
            assert answer.content == api.get(f"{address}/images/0").content
