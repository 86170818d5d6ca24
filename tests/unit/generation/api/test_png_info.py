"""A picture's settings, read back from its file."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rest_framework.test import APIClient

from generation.engine import AdapterUse, Batch, ModelRef
from generation.engine.encoding import picture_encode
from generation.models import Generation
from generation.pictures import reading
from generation.pictures.budget import PixelBudget
from loras.choices import LoraState
from loras.models import Lora
from tests.support.pictures import PICTURE, encoded, gradient

PNG_INFO = "/api/v1/png-info"


def info(api: APIClient, file: bytes) -> dict[str, Any]:
    answer = api.post(PNG_INFO, {"image": base64.b64encode(file).decode()})
    assert answer.status_code == 200, answer.content
    told: dict[str, Any] = answer.json()
    return told


def batch(**changes: Any) -> Batch:
    values: dict[str, Any] = {
        "model": ModelRef("builtin", "", "", Path(), short_hash="0123456789"),
        "prompt": "a red circle, in a: b, c\nsecond line",
        "negative_prompt": "blue",
        "width": 256,
        "height": 512,
        "num_inference_steps": 4,
        "guidance_scale": 4.5,
        "seed": 7,
        "scheduler": "dpmpp_2m_karras",
    }
    return Batch(**values | changes)


def with_parameters(text: str) -> bytes:
    notes = PngInfo()
    notes.add_itxt("parameters", text)
    return encoded(gradient(16, 16), pnginfo=notes)


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_our_own_pictures_come_back_as_they_were_asked_for(
    api: APIClient, owner: User, output_format: str
) -> None:
    """Of each format, with the LoRA; and the request makes the same again."""
    Lora.objects.create(
        name="soft",
        owner=owner,
        family="builtin",
        rank=4,
        alpha=4.0,
        sha256="a" * 64,
        state=LoraState.PRESENT,
    )
    use = AdapterUse("soft", "a" * 64, Path(), 0.5)
    made = batch(output_format=output_format, adapters=(use,), clip_skip=1)
    told = info(api, picture_encode(gradient(256, 512), made, 0).data)
    assert (told["notes_of"], told["needs"], told["warnings"]) == ("imagegen", [], [])
    assert told["parameters"].startswith("a red circle, in a: b, c\nsecond line <lora:soft:0.5>")
    request = told["request"]
    assert api.post("/api/v1/generations", request).status_code == 202
    drawn = Generation.objects.get()
    for name in (
        "prompt",
        "negative_prompt",
        "width",
        "height",
        "seed",
        "scheduler",
        "clip_skip",
        "guidance_scale",
    ):
        assert getattr(drawn, name) == getattr(made, name) == request[name]
    assert drawn.output_format == output_format
    assert [(used.name, used.scale) for used in drawn.adapters.all()] == [("soft", 0.5)]


def test_an_accelerated_picture_says_so(api: APIClient) -> None:
    """And nothing where it was not."""
    for acceleration, said in (("first_block_cache", "first_block_cache"), ("none", None)):
        made = picture_encode(gradient(256, 256), batch(acceleration=acceleration), 0)
        assert info(api, made.data)["request"].get("acceleration") == said


def test_what_a_file_cannot_give_is_named(api: APIClient) -> None:
    """An input picture is not in it."""
    made = batch(kind="img2img", strength=0.5, image=PICTURE)
    told = info(api, picture_encode(gradient(256, 512), made, 0).data)
    assert (told["request"]["strength"], told["needs"]) == (0.5, ["image"])
    edited = info(api, picture_encode(gradient(256, 512), batch(kind="edit", images=(PICTURE,)), 0).data)
    assert edited["needs"] == ["images"]


def test_a1111s_notes(api: APIClient, owner: User) -> None:
    """With its own names; what there is not here is said, and left out."""
    text = (
        "a cat <lora:nobodys:0.8>\nNegative prompt: dog\nSteps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, "
        "Seed: 5, Size: 512x768, Model hash: abc, Model: dreamy, Denoising strength: 0.4, Clip skip: 2"
    )
    told = info(api, with_parameters(text))
    assert (told["notes_of"], told["needs"]) == ("a1111", ["image"])
    assert told["request"] == {
        "prompt": "a cat",
        "negative_prompt": "dog",
        "num_inference_steps": 20,
        "guidance_scale": 7.0,
        "seed": 5,
        "width": 512,
        "height": 768,
        "strength": 0.4,
        "clip_skip": 1,
        "scheduler": "dpmpp_2m_karras",
    }
    assert {(said["param"], said["reason"].partition(" here")[0]) for said in told["warnings"]} == {
        ("model", "There is no model dreamy"),
        ("loras", "There is no LoRA nobodys"),
    }


@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [
        ("Euler a", "euler_a"),
        ("Euler, Schedule type: Karras", "euler_karras"),
        ("Euler a, Schedule type: Karras", "euler_a"),
        ("Automatic", None),
        ("Restart", None),
    ],
)
def test_a1111s_samplers(api: APIClient, sampler: str, scheduler: str | None) -> None:
    told = info(api, with_parameters(f"a\nSteps: 1, Sampler: {sampler}, Seed: 2, CFG scale: 3"))
    assert told["request"].get("scheduler") == scheduler
    assert bool(told["warnings"]) is (sampler == "Restart")


def test_notes_that_mean_nothing_are_left_out(api: APIClient) -> None:
    """Whatever a stranger wrote into a file: numbers out of bounds, deep JSON, other types."""
    told = info(api, with_parameters("a\nSteps: 9999, Seed: x, CFG scale: nan, Size: 12x0, Clip skip: 1e9"))
    assert told["request"] == {"prompt": "a", "width": 12, "height": 0}
    assert {said["param"] for said in told["warnings"]} == {
        *("num_inference_steps", "seed", "guidance_scale", "clip_skip"),
    }
    for text in (
        "[" * 100_000,
        '{"prompt": 5, "kind": []}',
        "[1]",
        '{"prompt": {"a": 1}, "loras": [[], {"lora": 3}]}',
    ):
        notes = PngInfo()
        notes.add_itxt("imagegen", text)
        told = info(api, encoded(gradient(16, 16), pnginfo=notes))
        assert told["request"] == {}
        json.dumps(told)


def test_a_picture_that_says_nothing(api: APIClient) -> None:
    """As a form's file, too."""
    form = {"image": SimpleUploadedFile("a.png", PICTURE, "image/png")}
    told = api.post(f"{PNG_INFO}/", form, format="multipart").json()
    assert (told["notes_of"], told["request"], told["parameters"]) == (None, {}, "")


@pytest.mark.parametrize("body", [{}, {"image": "x"}, {"image": base64.b64encode(b"GIF89a").decode()}])
def test_what_is_no_picture_is_refused(api: APIClient, body: dict[str, str]) -> None:
    answer = api.post(PNG_INFO, body)
    assert (answer.status_code, answer.json()["errors"][0]["param"]) == (400, "image")


class Watched(PixelBudget):
    """A budget that notes what was taken of it."""

    def __init__(self) -> None:
        super().__init__(reading.MAX_PICTURE_PIXELS)
        self.taken: list[int] = []

    def take(self, pixels: int) -> Any:
        self.taken.append(pixels)
        return super().take(pixels)


def test_reading_notes_and_resizing_keep_to_the_budget(
    api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is decoded, and what is made of it meanwhile; at most all that there is."""
    budget = Watched()
    monkeypatch.setattr(reading, "_BUDGET", budget)
    info(api, encoded(gradient(40, 20)))
    assert budget.taken == [800, 800]
    budget.taken.clear()
    small = base64.b64encode(encoded(gradient(40, 20))).decode()
    answer = api.post(
        "/sdapi/v1/extra-single-image", {"image": small, "upscaling_resize": 3, "upscaler_1": "Lanczos"}
    )
    assert answer.status_code == 200
    assert budget.taken == [800, 800, 800 + 9 * 800]
    budget.taken.clear()
    large = base64.b64encode(encoded(Image.new("L", (3000, 3000)))).decode()
    answer = api.post(
        "/sdapi/v1/extra-single-image", {"image": large, "upscaling_resize": 1.2, "upscaler_1": "Nearest"}
    )
    assert answer.status_code == 200
    assert budget.taken[-1] == reading.MAX_PICTURE_PIXELS
