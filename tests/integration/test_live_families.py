"""Every newer family's tiny checkpoint through the whole service: downloaded, drawn with, adapted, canceled, gone."""

import io
import json
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagegen_project.common.safetensors_header import read_header
from models_registry.pipeline_facts import PIPELINES
from tests.support.live import OTHER_FAMILIES, SIDE, Hubbed
from tests.support.lora_files import Tensor, safetensors
from tests.support.pictures import MASK, PICTURE, text_of
from tests.support.service import wait_for

# The module that a LoRA of each family adapts here, by which it is told whatever its width; the others' are told by it.
ADAPTED = {
    "flux": "single_transformer_blocks.0.attn.to_q",
    "chroma": "single_transformer_blocks.0.attn.to_q",
    "flux2-klein": "single_transformer_blocks.0.attn.to_qkv_mlp_proj",
    "qwen-image": "transformer_blocks.0.img_mlp.net.0.proj",
}
# Tried with every run of the tests: a kind of each, LoRA and editing; the others where all is tried.
USUALLY = ("flux", "qwen-image-edit", "sana")
# These bring every picture to a million pixels.
LARGE_INSIDE = ("flux-kontext", "qwen-image-edit", "qwen-image-edit-plus")


def inputs_of(kinds: list[str]) -> dict[str, Any]:
    """The pictures that a model's first kind asks for."""
    if "txt2img" in kinds:
        return {}
    picture = text_of(PICTURE)
    return {"images": [picture]} if "edit" in kinds else {"image": picture, "mask_image": text_of(MASK)}


def draw(live: Hubbed, name: str, **fields: Any) -> dict[str, Any]:
    """A small generation, waited for."""
    request = {"prompt": "a red circle", "model": f"tiny-{name}", "steps": 2, "seed": 7} | fields
    job = live.http.post("/api/v1/generations", json=request | {"width": SIDE, "height": SIDE})
    assert job.status_code == 202, job.text
    body = live.wait(job.json()["id"])
    assert body["status"] == "succeeded", body
    return body


def pixels(body: dict[str, Any]) -> str:
    """What the first picture shows."""
    found: str = body["images"][0]["pixel_sha256"]
    return found


def lora_file(live: Hubbed, name: str) -> bytes:
    """A strong LoRA for one module of a checkpoint."""
    path = next((live.repository(name).folder / "transformer").glob("*.safetensors"))
    with path.open("rb") as file:
        shape = read_header(file, size=path.stat().st_size).tensors[f"{ADAPTED[name]}.weight"].shape

    def half(*sides: int) -> Tensor:
        return ("F32", sides, np.full(sides, 0.5, "<f4").tobytes())

    names = (f"transformer.{ADAPTED[name]}.lora_{letter}.weight" for letter in "AB")
    return safetensors(dict(zip(names, (half(4, shape[1]), half(shape[0], 4)), strict=True)))


@pytest.mark.parametrize(
    "name",
    [name if name in USUALLY else pytest.param(name, marks=pytest.mark.long) for name in OTHER_FAMILIES],
)
def test_a_family_goes_the_whole_way(hubbed: Hubbed, name: str) -> None:
    """Absent at first; its class is read from its index, and it draws the same after it was gone."""
    repository = hubbed.repository(name)
    assert hubbed.model(name)["state"] == "absent"
    order = hubbed.http.post("/api/v1/models/load", json={"model": f"tiny-{name}"})
    assert order.status_code == 200, order.text
    model = hubbed.model(name)
    assert (model["state"], model["revision"]) == ("present", repository.commit)
    index = json.loads((repository.folder / "model_index.json").read_text())
    assert model["pipeline"] == index["_class_name"]
    assert model["kinds"] == list(PIPELINES[model["pipeline"]].kinds)
    inputs = inputs_of(model["kinds"])
    first = draw(hubbed, name, preview_every=1, **inputs)
    feed = hubbed.http.get(f"{first['urls']['self']}/events").text
    assert re.search(r'"preview": ?"', feed)
    if model["takes"]["first_block_cache"] and name not in LARGE_INSIDE:
        accelerate(hubbed, name, bare=pixels(first), inputs=inputs)
    if name in ADAPTED:
        adapt(hubbed, name, bare=pixels(first), inputs=inputs)
    if name not in LARGE_INSIDE:
        long = {"steps": 100, "num_images": 4, "width": 256, "height": 256}
        job = hubbed.create(model=f"tiny-{name}", **long, **inputs)["id"]
        hubbed.wait(job, "running", "succeeded", "failed")
        hubbed.http.post(f"/api/v1/generations/{job}/cancel")
        assert hubbed.wait(job)["status"] == "canceled"
    assert hubbed.http.post("/api/v1/models/unload", json={"model": f"tiny-{name}"}).status_code == 200
    assert pixels(draw(hubbed, name, **inputs)) == pixels(first)


def accelerate(live: Hubbed, name: str, *, bare: str, inputs: dict[str, Any]) -> None:
    """Draws with a step cache, which receipt and file say; behind it the model draws as before.

    With random weights no two steps are alike enough for it to leave blocks out.
    """
    body = draw(live, name, acceleration="first_block_cache", **inputs)
    receipt = live.http.get(f"{body['urls']['self']}/receipt").json()
    with Image.open(io.BytesIO(live.picture(body["id"]))) as image:
        notes = json.loads(image.text["imagegen"])  # type: ignore[attr-defined]  # of a PNG
    assert receipt["request"]["acceleration"] == notes["acceleration"] == "first_block_cache"
    assert pixels(draw(live, name, **inputs)) == bare


def adapt(live: Hubbed, name: str, *, bare: str, inputs: dict[str, Any]) -> None:
    """Draws with a LoRA of one's own."""
    upload = live.http.post(
        "/api/v1/loras/upload",
        data={"name": f"for-{name}"},
        files={"file": ("mine.safetensors", io.BytesIO(lora_file(live, name)))},
    )
    assert upload.status_code == 202, upload.text
    address = upload.json()["url"]
    wait_for(lambda: live.http.get(address).json()["state"] == "present", "the check of its weights")
    adapted = draw(live, name, loras=[{"lora": f"for-{name}", "scale": 1.0}], **inputs)
    assert pixels(adapted) != bare
    assert adapted["loras"][0]["name"] == f"for-{name}"
