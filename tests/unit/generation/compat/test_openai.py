"""OpenAI's dialect: every parameter honoured, warned about or refused, and errors in its shape."""

import asyncio
import base64
import json
from io import BytesIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from PIL import Image
from pytest_django import Settings
from rest_framework.test import APIClient

from generation.compat.openai import stream as openai_stream
from generation.compat.openai.stream import ImageStream
from generation.feed.stream import event_append, events_notify
from generation.models import Generation, Worker
from generation.pictures.files import image_read
from generation.services import generation_cancel
from imagegen_project.common.executors import run_in_socket_executor
from imagegen_project.common.waiting import REQUEST_ID_KEY
from tests.support.dialects import finish, made, nothing_stored, warned
from tests.support.factories import GenerationMaker
from tests.support.pictures import PICTURE, decoded, encoded, gradient, text_of, upload
from tests.unit.generation.test_lora_uses import make_lora

URL = "/v1/images/generations"
EDITS = "/v1/images/edits"
REQUEST = {"prompt": "a red circle", "size": "256x256"}


def error_of(response: Any, status: int) -> dict[str, Any]:
    """The error, in OpenAI's shape: four keys, never more or fewer."""
    assert response.status_code == status, response.content
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["code"], str)
    return error


def hole(size: tuple[int, int] = (256, 256)) -> bytes:
    """OpenAI's mask: the left half is transparent, so that it is drawn anew."""
    mask = Image.new("RGBA", size, "black")
    mask.paste((0, 0, 0, 0), (0, 0, size[0] // 2, size[1]))
    return encoded(mask)


@pytest.mark.django_db
def test_parameters_become_native_ones(api: APIClient, owner: User) -> None:
    make_lora(owner, "pastel")
    body = REQUEST | {
        "model": "builtin",
        "n": 3,
        "negative_prompt": "blue",
        "num_inference_steps": 7,
        "guidance_scale": 3.5,
        "seed": 42,
        "lora": {"name": "pastel", "scale": 0.5},
        "output_format": "webp",
        "user": "somebody",
        "quality": "auto",
        "background": "opaque",
        "moderation": "auto",
        "style": None,
    }
    generation = made(api.post(URL, body))
    assert (generation.width, generation.height, generation.num_images) == (256, 256, 3)
    assert (generation.num_inference_steps, generation.guidance_scale, generation.seed) == (7, 3.5, 42)
    assert (generation.negative_prompt, generation.output_format) == ("blue", "webp")
    assert [(use.name, use.scale) for use in generation.adapters.all()] == [("pastel", 0.5)]
    assert generation.warnings == []


@pytest.mark.django_db
def test_partial_pictures_want_previews(api: APIClient) -> None:
    assert made(api.post(URL, REQUEST | {"stream": True, "partial_images": 2})).preview_every == 1
    assert made(api.post(URL, REQUEST | {"stream": True})).preview_every == 0


@pytest.mark.django_db
def test_what_has_no_effect_is_said(api: APIClient) -> None:
    body = REQUEST | {
        "style": "vivid",
        "moderation": "low",
        "output_compression": 50,
        "complexity": "high",
        "prompt_rewriter": "auto",
        "frame_count": 4,
        "frame_anything": {"deep": 1},
        "svg": {"model": "x"},
    }
    assert warned(made(api.post(URL, body))) == body.keys() - {"prompt", "size"}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"n": 11}, "n"),
        ({"n": "many"}, "n"),
        ({"size": "large"}, "size"),
        ({"size": "255x256"}, "size"),
        ({"size": ["256x256"]}, "size"),
        ({"size": "99999x99999"}, "size"),
        ({"quality": "ultra"}, "quality"),
        ({"output_format": "webp", "output_compression": 101}, "output_compression"),
        ({"output_format": "gif"}, "output_format"),
        ({"response_format": "blob"}, "response_format"),
        ({"stream": "perhaps"}, "stream"),
        ({"partial_images": 4}, "partial_images"),
        ({"stream": True, "response_format": "url"}, "response_format"),
        ({"num_inference_steps": 101}, "num_inference_steps"),
        ({"seed": -2}, "seed"),
        ({"lora": {"name": "x", "strength": 1}}, "lora.strength"),
        ({"lora": {"scale": 1}}, "lora"),
        ({"lora": "nobody"}, "lora"),
        ({"output_format": "svg", "svg": {"model": "x"}}, "output_format"),
        ({"steps": 5}, "steps"),
    ],
)
def test_bad_parameters_are_named(api: APIClient, changes: dict[str, Any], param: str) -> None:
    error = error_of(api.post(URL, REQUEST | changes), 400)
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert nothing_stored()


@pytest.mark.django_db
def test_all_that_is_wrong_is_named_at_once(api: APIClient) -> None:
    """OpenAI's shape has one `param`, which is the first; the message has all of them."""
    body = {"prompt": "", "n": 99, "size": "large", "quality": "ultra", "lora": {"scale": 1}, "mystery": 1}
    error = error_of(api.post(URL, body | {"background": "transparent"}), 400)
    wrong = (*body, "background")
    assert [name for name in wrong if f"{name}: " not in error["message"]] == []
    assert error["message"].startswith(f"{error['param']}: ")
    form = {"image": "no picture", "mask": "no picture", "stream": "x", "prompt": ["a", "b"]}
    message = error_of(api.post(EDITS, form, format="multipart"), 400)["message"]
    assert [name for name in form if f"{name}: " not in message] == []
    assert nothing_stored()


@pytest.mark.django_db
def test_errors_have_their_shape(api: APIClient) -> None:
    """Unknown models and routes, bodies that are none, and callers who are nobody."""
    assert error_of(api.post(URL, REQUEST | {"model": "gpt-4"}), 404)["param"] == "model"
    assert error_of(api.post("/v1/images/inpainting", {}), 404)["code"] == "not_found"
    assert error_of(api.get("/v1/models/nothing"), 404)["code"] == "model_not_found"
    assert error_of(api.post(URL, [1]), 400)["param"] is None
    assert error_of(api.post(URL, b"{", content_type="application/json"), 400)["code"] == "parse_error"
    assert error_of(api.get(URL), 405)["code"] == "method_not_allowed"
    assert error_of(APIClient().post(URL, REQUEST), 401)["type"] == "authentication_error"


@pytest.mark.django_db
def test_models_are_openai_shaped(api: APIClient) -> None:
    """With the native fields beside; `load` and `unload` are still there."""
    listed = api.get("/v1/models").json()
    assert listed["object"] == "list"
    assert {"id", "object", "created", "owned_by"} < set(listed["data"][0])
    assert api.get("/v1/models/builtin").json()["object"] == "model"
    assert api.post("/v1/models/load", {"model": "builtin"}).json()["code"] == "no_worker"


@pytest.mark.django_db
def test_results_carry_the_pictures(api: APIClient, worker: Worker) -> None:
    generation = finish(made(api.post(URL, REQUEST)), worker)
    response = api.get(f"/v1/images/results/{generation.id}")
    body = response.json()
    assert response["X-Job-Id"] == str(generation.id)
    assert body["created"] == int(generation.created_at.timestamp())
    assert base64.b64decode(body["data"][0]["b64_json"]) == image_read(generation.images.get())
    assert (body["quality"], body["size"], body["background"]) == ("medium", "256x256", "opaque")
    assert body["usage"]["total_tokens"] == 0
    body = api.get(f"/v1/images/results/{generation.id}?response_format=url&quality=high").json()
    assert APIClient().get(body["data"][0]["url"]).content == image_read(generation.images.get())
    assert body["quality"] == "high"
    from openai.types import ImagesResponse  # five hundred modules

    ImagesResponse.model_validate(body, strict=True)


@pytest.mark.django_db
def test_a_failed_job_is_not_asked_for_again(api: APIClient) -> None:
    """OpenAI's client would repeat the request by itself."""
    generation = generation_cancel(generation=made(api.post(URL, REQUEST)))
    response = api.get(f"/v1/images/results/{generation.id}")
    assert error_of(response, 409)["code"] == "canceled"
    assert (response["X-Should-Retry"], response["X-Job-Id"]) == ("false", str(generation.id))


@pytest.mark.django_db
def test_the_same_key_makes_one_job(api: APIClient) -> None:
    """A form with the same files is the same request; another one is a conflict that is not repeated."""

    def edit(prompt: str) -> Any:
        form = {"prompt": prompt, "image": upload(PICTURE), "mask": upload(hole())}
        return api.post(EDITS, form, format="multipart", headers={"Idempotency-Key": "k"})

    first, again, other = edit("a"), edit("a"), edit("b")
    assert made(first).id == made(again).id
    assert again["Idempotency-Replayed"] == "true"
    assert error_of(other, 409)["code"] == "idempotency_conflict"
    assert (other["X-Should-Retry"], other["X-Job-Id"]) == ("false", first["X-Job-Id"])


@pytest.mark.django_db
def test_an_edit_draws_what_is_transparent(api: APIClient) -> None:
    """The native mask is white there; JSON with data URLs means the same as a form."""
    form = {"prompt": "a", "image": upload(PICTURE), "mask": upload(hole())}
    by_form = made(api.post(EDITS, form, format="multipart"))
    url = "data:image/png;base64," + text_of(hole())
    body = {
        "prompt": "a",
        "images": [{"image_url": "data:image/png;base64," + text_of(PICTURE)}],
        "mask": {"image_url": url},
    }
    by_json = made(api.post(EDITS, body))
    for generation in (by_form, by_json):
        assert (generation.kind, generation.width, generation.height) == ("inpaint", 256, 256)
        mask = Image.open(BytesIO(api.get(f"/api/v1/generations/{generation.id}/mask").content))
        assert (mask.getpixel((10, 10)), mask.getpixel((250, 10))) == (255, 0)


@pytest.mark.django_db
def test_an_edit_without_a_mask_starts_from_the_picture(api: APIClient) -> None:
    """`image[]` is how clients send a list."""
    form = {"prompt": "a", "image[]": upload(PICTURE), "n": "2", "strength": "0.5", "stream": "false"}
    generation = made(api.post(EDITS, form, format="multipart"))
    assert (generation.kind, generation.num_images, generation.strength) == ("img2img", 2, 0.5)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"image": []}, "image"),
        ({"image": [upload(PICTURE), upload(PICTURE)]}, "image"),
        ({"image": [upload(PICTURE)] * 17}, "image"),
        ({"image": "no picture"}, "image"),
        ({"mask": upload(encoded(gradient(256, 256)))}, "mask"),
        ({"mask": "no picture"}, "mask"),
        ({"mask": upload(hole((128, 128)))}, "mask"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"size": upload(PICTURE)}, "size"),
    ],
)
def test_bad_edits_are_named(api: APIClient, changes: dict[str, Any], param: str) -> None:
    form = {"prompt": "a", "image": upload(PICTURE)} | changes
    for value in form.values():
        for file in value if isinstance(value, list) else [value]:
            if hasattr(file, "seek"):
                file.seek(0)
    assert error_of(api.post(EDITS, form, format="multipart"), 400)["param"] == param
    assert nothing_stored()


async def streamed(stream: ImageStream) -> list[tuple[str, dict[str, Any]]]:
    """The events of a stream, each with its name."""
    sent = bytearray()

    async def send(message: Any) -> None:
        sent.extend(message.get("body", b""))

    async def receive() -> Any:
        return await asyncio.Event().wait()

    async with asyncio.timeout(20):
        await stream({"type": "http", REQUEST_ID_KEY: "abc"}, receive, send)
    events = []
    for block in sent.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            events.append((fields["event"], json.loads(fields["data"])))
    return events


@pytest.mark.django_db(transaction=True)
async def test_a_stream_shows_partial_pictures_and_ends_with_the_finished_one(
    make: GenerationMaker, owner: User, worker: Worker
) -> None:
    """As many as were asked for, spread over the run, from the previews in the feed."""
    generation = await run_in_socket_executor(make)
    stream = ImageStream(generation, user=owner, name="image_generation", partial_images=2, quality="low")
    running = asyncio.create_task(streamed(stream))
    for percent in (10.0, 40.0, 60.0, 70.0, 90.0):
        preview = text_of(encoded(Image.new("RGB", (int(percent), 8)), "JPEG"))
        event = await asyncio.to_thread(
            event_append, generation.id, "progress", attempt=1, percent=percent, preview=preview
        )
        assert event is not None
        events_notify([event])
    await run_in_socket_executor(finish, generation, worker)
    last = await asyncio.to_thread(event_append, generation.id, "succeeded", attempt=1)
    assert last is not None
    events_notify([last])
    events = await running
    assert [name for name, _ in events] == [data["type"] for _, data in events]
    partial, done = events[:-1], events[-1]
    shown = [Image.open(BytesIO(base64.b64decode(data["b64_json"]))) for _, data in partial]
    assert [(image.format, image.width) for image in shown] == [("PNG", 40), ("PNG", 70)]
    assert {data["output_format"] for _, data in events} == {"png"}
    assert [data["partial_image_index"] for _, data in partial] == [0, 1]
    assert done[0] == "image_generation.completed"
    assert decoded(base64.b64decode(done[1]["b64_json"])).size == (16, 16)
    assert {"created_at", "size", "quality", "background", "output_format", "usage"} < set(done[1])


@pytest.mark.django_db(transaction=True)
async def test_a_stream_of_a_canceled_job_ends_with_the_error(make: GenerationMaker, owner: User) -> None:
    generation: Generation = await run_in_socket_executor(make)
    await run_in_socket_executor(generation_cancel, generation=generation)
    stream = ImageStream(generation, user=owner, name="image_edit", partial_images=0, quality="low")
    (event,) = await streamed(stream)
    assert (event[0], event[1]["error"]["code"]) == ("error", "canceled")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("cancels", "ending", "status"),
    [(True, False, "canceled"), (False, False, "queued"), (True, True, "queued")],
    ids=["to end", "to go on", "cut off by this side"],
)
async def test_a_stream_that_is_hung_up_ends_its_job(
    make: GenerationMaker,
    owner: User,
    monkeypatch: pytest.MonkeyPatch,
    *,
    cancels: bool,
    ending: bool,
    status: str,
) -> None:
    """Where the row says so, and it was the client."""
    monkeypatch.setattr(openai_stream, "is_ending", lambda: ending)
    generation: Generation = await run_in_socket_executor(make, cancel_on_disconnect=cancels)
    stream = ImageStream(generation, user=owner, name="image_generation", partial_images=0, quality="low")

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    await stream({"type": "http", REQUEST_ID_KEY: "abc"}, receive, send)
    await run_in_socket_executor(generation.refresh_from_db)
    assert generation.status == status


@pytest.mark.parametrize("method", ["get", "post", "delete"])
@pytest.mark.parametrize("path", ["/chat/completions", "/embeddings", "/files/file-1", "/responses", ""])
def test_whatever_else_is_asked_for_is_refused_in_openais_shape(method: str, path: str) -> None:
    """Its clients read no other; and nobody needs a token to learn that there is nothing."""
    answer = getattr(APIClient(), method)(f"/v1{path}")
    assert answer.status_code == 404
    assert answer.json() == {
        "error": {
            "message": f"There is nothing at /v1{path}.",
            "type": "invalid_request_error",
            "param": None,
            "code": "not_found",
        }
    }


def test_what_django_refuses_has_the_shape_too(settings: Settings) -> None:
    """A host that is not listed; on the native routes it stays a problem."""
    settings.ALLOWED_HOSTS = ["localhost"]
    error = error_of(APIClient().get("/v1/models", HTTP_HOST="other.example"), 400)
    assert (error["code"], error["type"]) == ("bad_request", "invalid_request_error")
    assert APIClient().get("/v1/generations", HTTP_HOST="other.example").json()["code"] == "bad_request"


def test_a_misspelt_parameter_is_asked_back(api: APIClient) -> None:
    """With the dialect's own name, not the native one."""
    answer = api.post("/v1/images/generations", {"prompt": "a", "qualty": "low"})
    assert answer.json()["error"]["message"] == "qualty: Unknown parameter. Did you mean quality?"
