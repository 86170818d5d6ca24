"""OpenAI's dialect: its names of models, sizes and qualities, and pictures that come in every way."""

import contextlib
import pkgutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any, get_args

import pytest
from PIL import Image
from pytest_django import Settings
from rest_framework.test import APIClient

from generation.attempts import attempt_fail, generation_claim
from generation.choices import ErrorCode
from generation.models import Worker
from models_registry.models import Checkpoint
from tests.support.dialects import made, nothing_stored, warned
from tests.support.pictures import PICTURE, encoded, gradient, text_of, upload
from tests.unit.generation.compat.test_openai import EDITS, REQUEST, URL, error_of, hole

VARIATIONS = "/v1/images/variations"
# A valid value of each field that OpenAI's client can send.
FIELDS: dict[str, Any] = {
    "prompt": "a",
    "background": "opaque",
    "complexity": "low",
    "frame_count": 2,
    "frame_duration_ms": 100,
    "input_fidelity": "low",
    "markup": "x",
    "model": "gpt-image-2",
    "moderation": "low",
    "n": 1,
    "output_compression": 100,
    "output_format": "webp",
    "partial_images": 0,
    "quality": "low",
    "response_format": "b64_json",
    "safety_identifier": "x",
    "size": "256x256",
    "style": "vivid",
    "svg": {"model": "x"},
    "user": "x",
}


@pytest.fixture
def other(db: None) -> Checkpoint:
    """A second model, 512 to 1024 pixels, of 20 steps."""
    return Checkpoint.objects.create(
        id="other", name="Other", repository="org/other", family="sdxl", licence="mit", default_steps=20
    )


def test_openais_names_mean_the_default_model(api: APIClient) -> None:
    """And the answer says which that is."""
    from openai.types.image_model import ImageModel

    for name in get_args(ImageModel):
        generation = made(api.post(URL, REQUEST | {"model": name}))
        assert (generation.checkpoint_id, warned(generation)) == ("builtin", {"model"})
        assert generation.warnings[0]["used"] == "builtin"


def test_whose_name_it_is(api: APIClient, other: Checkpoint, settings: Settings) -> None:
    """A model's own comes before its row's aliases, and those before the setting's."""

    def meant(name: str) -> str:
        return made(api.post(URL, {"prompt": "a", "model": name})).checkpoint_id

    settings.MODEL_ALIASES = [("draw-*", "org/other"), ("gone", "no/such"), ("dall-e-*", "")]
    assert [meant("draw-1"), meant("dall-e-3")] == ["other", "builtin"]
    assert error_of(api.post(URL, {"prompt": "a", "model": "gone"}), 404)["code"] == "model_not_found"
    Checkpoint.objects.filter(id="other").update(aliases=["dall-e-3", "builtin"])
    assert [meant("dall-e-3"), meant("dall-e-2"), meant("builtin")] == ["other", "builtin", "builtin"]
    Checkpoint.objects.filter(id="other").update(enabled=False)
    assert meant("dall-e-3") == "builtin"


def test_names_are_listed_when_asked_for(api: APIClient, other: Checkpoint, settings: Settings) -> None:
    """Each can be retrieved; only OpenAI's door knows them."""

    def listed(query: str = "") -> dict[str, Any]:
        return {model["id"]: model.get("alias_of") for model in api.get(f"/v1/models{query}").json()["data"]}

    Checkpoint.objects.filter(id="other").update(aliases=["dall-e-3", "my-model"])
    assert "dall-e-3" not in listed()
    wanted = {"dall-e-3": "other", "my-model": "other", "dall-e-2": "builtin"}
    assert listed("?aliases=true").items() >= wanted.items()
    settings.LIST_MODEL_ALIASES = True
    assert listed()["gpt-image-1"] == "builtin"
    assert "dall-e-3" not in listed("?aliases=false")
    found = api.get("/v1/models/dall-e-3").json()
    assert (found["id"], found["object"], found["alias_of"]) == ("dall-e-3", "model", "other")
    assert api.get("/api/v1/models/dall-e-3").status_code == 404
    assert api.post("/api/v1/generations", {"prompt": "a", "model": "dall-e-3"}).status_code == 400


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"model": "dall-e-3"}, "url"),
        ({"model": "dall-e-3", "response_format": "b64_json"}, "b64_json"),
        ({"model": "gpt-image-2"}, "b64_json"),
        ({"model": "gpt-image-2", "response_format": "url"}, "url"),
        ({}, "b64_json"),
    ],
)
def test_how_pictures_are_answered(
    api: APIClient, changes: dict[str, Any], wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OpenAI's models do."""
    paths: list[str] = []

    def note(request: Any, generation: Any, path: str) -> Any:
        paths.append(path)

    monkeypatch.setattr("generation.compat.openai.views.result_wait", note)
    api.post(URL, REQUEST | changes)
    assert f"response_format={wanted}&" in paths[0]


@pytest.mark.parametrize(
    ("quality", "steps"),
    [("low", 10), ("auto", 20), ("standard", 20), ("hd", 30), ("xhigh", 40), ("max", 60)],
)
def test_quality_means_steps(api: APIClient, other: Checkpoint, quality: str, steps: int) -> None:
    """As capabilities say; who gives a number of steps is told that it decides."""
    body = {"prompt": "a", "model": "other", "quality": quality}
    generation = made(api.post(URL, body))
    assert (generation.num_inference_steps, generation.warnings) == (steps, [])
    shares = api.get("/api/v1/capabilities").json()["quality_steps"]
    assert shares.get(quality, {"hd": shares["high"]}.get(quality, 1)) * 20 == steps
    generation = made(api.post(URL, body | {"num_inference_steps": 7}))
    assert generation.num_inference_steps == 7
    assert warned(generation) == ({"quality"} if steps != 20 else set())


def test_compression_is_that_of_the_file(api: APIClient) -> None:
    for output_format in ("jpeg", "webp"):
        body = REQUEST | {"output_format": output_format, "output_compression": 40}
        generation = made(api.post(URL, body))
        assert (generation.output_format, generation.output_quality) == (output_format, 40)
        assert generation.warnings == []


def test_openais_sizes_are_always_taken(api: APIClient, other: Checkpoint) -> None:
    """The nearest that the model draws, with a warning; of other sizes it is said which it takes."""
    for size, used in (
        ("1792x1024", (1024, 584)),
        ("1024x1536", (680, 1024)),
        ("256x256", (512, 512)),
        ("1024x1024", (1024, 1024)),
    ):
        generation = made(api.post(URL, {"prompt": "a", "model": "other", "size": size}))
        assert (generation.width, generation.height) == used
        assert warned(generation) == (set() if size == "1024x1024" else {"size"})
    Checkpoint.objects.filter(pk=other.pk).update(family="sd3")  # whose sides are multiples of 16
    generation = made(api.post(URL, {"prompt": "a", "model": "other", "size": "1792x1024"}))
    assert (generation.width, generation.height) == (1024, 592)
    body = {"prompt": "a", "model": "other", "size": "1800x1024"}
    assert error_of(api.post(URL, body), 400)["param"] == "size"


def test_a_size_that_is_enlarged_is_called_by_openais_name(api: APIClient) -> None:
    """`builtin` draws smaller pictures; nothing here is called a width."""
    generation = made(api.post(URL, {"prompt": "a red circle", "size": "1024x1024"}))
    assert [(entry["param"], entry["used"]) for entry in generation.warnings] == [("size", "640x640")]


def test_no_model_draws_transparency(api: APIClient) -> None:
    error = error_of(api.post(URL, REQUEST | {"background": "transparent"}), 400)
    assert (error["param"], error["code"]) == ("background", "invalid_value")


def test_many_pictures_and_long_prompts(api: APIClient) -> None:
    """As many as OpenAI takes."""
    generation = made(api.post(URL, REQUEST | {"n": 10, "prompt": "x" * 32_000}))
    assert (generation.num_images, len(generation.prompt)) == (10, 32_000)
    assert error_of(api.post(URL, REQUEST | {"prompt": "x" * 32_001}), 400)["param"] == "prompt"


def test_a_variation_needs_no_prompt(api: APIClient) -> None:
    form = {"image": upload(PICTURE), "n": "2", "size": "512x512", "model": "dall-e-2", "user": "somebody"}
    generation = made(api.post(VARIATIONS, form, format="multipart"))
    assert (generation.kind, generation.prompt, generation.num_images) == ("img2img", "", 2)
    assert (generation.width, generation.height) == (512, 512)
    assert error_of(api.post(VARIATIONS, {}, format="multipart"), 400)["param"] == "image"


def test_a_pictures_own_transparency_is_the_mask(api: APIClient) -> None:
    """Where none is given, and only where it is complete."""
    picture = Image.open(BytesIO(hole()))
    generation = made(api.post(EDITS, {"prompt": "a", "image": upload(encoded(picture))}, format="multipart"))
    assert generation.kind == "inpaint"
    mask = Image.open(BytesIO(api.get(f"/api/v1/generations/{generation.id}/mask").content))
    assert (mask.getpixel((10, 10)), mask.getpixel((250, 10))) == (255, 0)
    picture.putalpha(128)
    form = {"prompt": "a", "image": upload(encoded(picture))}
    assert made(api.post(EDITS, form, format="multipart")).kind == "img2img"


def test_markup_is_warned_of_wherever_it_comes(api: APIClient) -> None:
    """It has no place in the other two routes, and is no reason to refuse a drawing."""
    assert warned(made(api.post(URL, REQUEST | {"markup": "x"}))) == {"markup"}
    form = {"image": upload(PICTURE), "markup": "x"}
    assert warned(made(api.post(VARIATIONS, form, format="multipart"))) == {"markup"}


def test_markup_is_warned_of(api: APIClient) -> None:
    form = {"prompt": "a", "image": upload(PICTURE), "markup": upload(PICTURE), "input_fidelity": "high"}
    form |= {"svg[model]": "x"}  # as OpenAI's client spells an object in a form
    assert warned(made(api.post(EDITS, form, format="multipart"))) == {
        "markup",
        "input_fidelity",
        "svg[model]",
    }


def test_more_pictures_than_the_model_takes(api: APIClient) -> None:
    """Are refused with its number."""
    form = {"prompt": "a", "image[]": [upload(PICTURE), upload(PICTURE)]}
    error = error_of(api.post(EDITS, form, format="multipart"), 400)
    assert (error["param"], error["message"]) == (
        "image",
        "image: builtin takes 1 picture, and 2 were given.",
    )


def test_pictures_for_a_model_that_edits_by_instruction(api: APIClient) -> None:
    """As many as it takes, one too; and no more."""
    Checkpoint.objects.create(
        id="editor",
        name="Editor",
        repository="org/editor",
        family="flux2",
        pipeline="Flux2KleinPipeline",
        licence="mit",
    )

    def edit(count: int, **more: Any) -> Any:
        form = {"prompt": "a", "model": "editor", "image[]": [upload(PICTURE) for _ in range(count)], **more}
        return api.post(EDITS, form, format="multipart")

    for count in (1, 4):
        generation = made(edit(count))
        assert (generation.kind, len(generation.input_images)) == ("edit", count)
    error = error_of(edit(5), 400)
    assert (error["param"], error["message"]) == (
        "image",
        "image: editor takes 4 pictures at most, and 5 were given.",
    )
    assert error_of(edit(1, mask=upload(hole())), 400)["param"] == "mask"
    transparent = {"prompt": "a", "model": "editor", "image": upload(hole())}
    assert made(api.post(EDITS, transparent, format="multipart")).kind == "edit"


@pytest.fixture
def pictures_at() -> Iterator[str]:
    """A server on loopback with a picture, one that is too large, a redirect, and a text."""
    answers = {
        "/picture": (200, PICTURE),
        "/large": (200, bytes(11 << 20)),
        "/away": (302, b""),
        "/text": (200, b"x"),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, b""))
            self.send_response(status)
            self.send_header("Location", "/picture")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):  # hung up on, as it should be
                self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_picture_is_fetched(api: APIClient, pictures_at: str, settings: Settings) -> None:
    """From anywhere where that is allowed; what is no picture, too large, elsewhere or not there is said."""
    settings.FETCH_PICTURES = "any"

    def edit(path: str) -> Any:
        return api.post(EDITS, {"prompt": "a", "images": [{"image_url": pictures_at + path}]})

    assert made(edit("/picture")).kind == "img2img"
    for path, said in (("/large", "10 MiB"), ("/away", "302"), ("/nothing", "404"), ("/text", "Not a PNG")):
        error = error_of(edit(path), 400)
        assert (error["param"], error["code"]) == ("images", "invalid_image")
        assert said in error["message"]


@pytest.mark.parametrize(
    ("setting", "url", "said"),
    [
        ("public", "https://127.0.0.1/x.png", "public"),
        ("public", "https://localhost/x.png", "public"),
        ("public", "http://example.com/x.png", "https"),
        ("public", "https://user:password@example.com/x.png", "password"),
        ("off", "https://example.com/x.png", "fetches no pictures"),
    ],
)
def test_where_pictures_are_not_fetched_from(
    api: APIClient, settings: Settings, setting: str, url: str, said: str
) -> None:
    settings.FETCH_PICTURES = setting
    error = error_of(api.post(EDITS, {"prompt": "a", "images": [{"image_url": url}]}), 400)
    assert (error["param"], error["code"]) == ("images", "invalid_image")
    assert said in error["message"]
    assert nothing_stored()


def test_a_blocked_picture_is_openais_refusal(api: APIClient, worker: Worker) -> None:
    generation = made(api.post(URL, REQUEST))
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    attempt_fail(generation=claimed, code=ErrorCode.UNSAFE, detail="The safety filter blocked every picture.")
    answer = api.get(f"/v1/images/results/{generation.id}")
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "The safety filter blocked every picture.",
        "type": "image_generation_user_error",
        "param": None,
        "code": "moderation_blocked",
    }


@pytest.mark.parametrize(
    ("path", "params"),
    [
        (URL, "image_generate_params.ImageGenerateParamsBase"),
        (EDITS, "image_edit_params.ImageEditParamsBase"),
        (VARIATIONS, "image_create_variation_params.ImageCreateVariationParams"),
    ],
)
def test_every_field_of_openais_client_is_known(api: APIClient, path: str, params: str) -> None:
    """None is called unknown, whatever becomes of it."""
    names = set(pkgutil.resolve_name(f"openai.types.{params}").__annotations__) - {"image", "mask", "stream"}
    body = {name: FIELDS[name] for name in names}
    if path != URL:
        body["image"] = text_of(encoded(gradient(256, 256)))
    made(api.post(path, body))
