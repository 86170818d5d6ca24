"""Adapters through the whole service: drawn with, stacked, loaded and unloaded beside jobs, lost."""

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from models_registry import builtin
from tests.support.live import Hubbed
from tests.support.service import wait_for

REQUEST = {"prompt": "a large red circle on a white background", "steps": 8, "seed": 5}


def draw(live: Hubbed, *adapters: tuple[str, float], **fields: Any) -> dict[str, Any]:
    """A picture with these adapters; the answer's body."""
    uses = [{"lora": name, "scale": scale} for name, scale in adapters]
    answer = live.http.post("/api/v1/generate/txt2img", json=REQUEST | {"loras": uses} | fields)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def pixels(body: dict[str, Any]) -> str:
    """What the first picture shows."""
    found: str = body["images"][0]["pixel_sha256"]
    return found


def adapter(live: Hubbed, name: str) -> dict[str, Any]:
    """An adapter of the list."""
    loras = live.http.get("/api/v1/loras", params={"limit": 100}).json()["results"]
    found: dict[str, Any] = next(lora for lora in loras if lora["name"] == name)
    return found


def test_the_adapters_that_ship_are_there_and_draw(hubbed: Hubbed) -> None:
    """Stacked in either order the same, with a scale of 0 as if they were not there, and gone afterwards."""
    bare = pixels(draw(hubbed))
    outline = pixels(draw(hubbed, ("outline", 1.0)))
    assert outline != bare
    assert pixels(draw(hubbed, ("outline", 0.0))) == bare
    both = draw(hubbed, ("outline", 1.0), ("pastel", 1.0))
    assert pixels(both) not in {bare, outline}
    assert [use["sha256"] for use in both["loras"]] == [
        hashlib.sha256((builtin.ADAPTERS / f"{name}.safetensors").read_bytes()).hexdigest()
        for name in ("outline", "pastel")
    ]
    assert pixels(draw(hubbed)) == bare
    receipt = hubbed.http.get(both["urls"]["receipt"]).json()
    assert [use["scale"] for use in receipt["request"]["loras"]] == [1.0, 1.0]
    wait_for(lambda: adapter(hubbed, "outline")["workers"], "the worker's next heartbeat")
    gone = hubbed.http.post("/api/v1/loras/unload", json={"lora": "outline"})
    assert (gone.status_code, gone.json()["status"]) == (200, "succeeded")
    assert adapter(hubbed, "outline")["workers"] == []
    assert pixels(draw(hubbed)) == bare


def test_an_adapter_of_the_hub_is_one_field_away(hubbed: Hubbed) -> None:
    """`lora_path` downloads it; it is the same file as the one that ships, and draws the same."""
    body = draw(hubbed, lora_path="org/outline", lora_scale=1.0)
    assert pixels(body) == pixels(draw(hubbed, ("outline", 1.0)))
    again = hubbed.http.post("/api/v1/loras/load", json={"lora_path": "org/outline"})
    assert (again.status_code, again.json()["state"], again.json()["family"]) == (200, "present", "builtin")


def test_loads_and_unloads_beside_jobs_change_no_picture(hubbed: Hubbed) -> None:
    """All at once and again and again: every order has an end, every picture is right."""

    def picture(_: int) -> str:
        # By itself: what is drawn together may differ in the last bits.
        return pixels(draw(hubbed, ("outline", 1.0), reproducible=True))

    expected = picture(0)

    def order(number: int) -> int:
        if number % 2:
            return hubbed.http.post("/api/v1/loras/unload", json={"lora": "outline"}).status_code
        return hubbed.http.post("/api/v1/loras/load", json={"lora_path": "org/outline"}).status_code

    with ThreadPoolExecutor(4) as pool:
        orders = pool.map(order, range(12))
        pictures = pool.map(picture, range(6))
        assert set(pictures) == {expected}
        assert set(orders) <= {200, 204}


def test_a_lost_file_is_said(hubbed: Hubbed) -> None:
    """An upload whose file somebody deleted: the job fails and says so, and nothing else does."""
    bare = pixels(draw(hubbed))
    content = (builtin.ADAPTERS / "pastel.safetensors").read_bytes()
    upload = hubbed.http.post(
        "/api/v1/loras/upload",
        data={"name": "mine"},
        files={"file": ("mine.safetensors", io.BytesIO(content))},
    )
    assert upload.status_code == 202, upload.text
    wait_for(lambda: adapter(hubbed, "mine")["state"] == "present", "the check of its weights")
    assert pixels(draw(hubbed, ("mine", 1.0))) == pixels(draw(hubbed, ("pastel", 1.0)))
    sha256 = adapter(hubbed, "mine")["sha256"]
    (hubbed.service.data_dir / "models" / "loras" / f"{sha256}.safetensors").unlink()
    answer = hubbed.http.post("/api/v1/generate/txt2img", json=REQUEST | {"loras": [{"lora": "mine"}]})
    assert (answer.status_code, answer.json()["code"]) == (422, "lora_unavailable")
    assert adapter(hubbed, "mine")["state"] == "broken"
    assert pixels(draw(hubbed)) == bare


def test_a_distilled_adapter_is_drawn_with_by_its_scheduler(hubbed: Hubbed) -> None:
    """Its pixels are those of that scheduler; a request that names another gets other ones."""
    content = (builtin.ADAPTERS / "pastel.safetensors").read_bytes()
    upload = hubbed.http.post(
        "/api/v1/loras/upload",
        data={"name": "lcm-pastel"},
        files={"file": ("mine.safetensors", io.BytesIO(content))},
    )
    assert upload.json()["scheduler"] == "lcm"
    wait_for(lambda: adapter(hubbed, "lcm-pastel")["state"] == "present", "the check of its weights")
    body = draw(hubbed, ("lcm-pastel", 1.0))
    assert pixels(body) == pixels(draw(hubbed, ("pastel", 1.0), scheduler="lcm"))
    assert pixels(body) != pixels(draw(hubbed, ("pastel", 1.0)))
    assert pixels(draw(hubbed, ("lcm-pastel", 1.0), scheduler="ddim")) == pixels(
        draw(hubbed, ("pastel", 1.0), scheduler="ddim")
    )
    receipt = hubbed.http.get(body["urls"]["receipt"]).json()
    assert receipt["request"]["scheduler"] == "lcm"
    assert [each["used"] for each in body["warnings"] if each["param"] == "scheduler"] == ["lcm"]


def test_an_adapter_of_another_family_is_refused_at_once(hubbed: Hubbed) -> None:
    """Before anything is queued."""
    answer = hubbed.http.post(
        "/api/v1/generations",
        json={"prompt": "a", "model": "tiny-sdxl", "loras": [{"lora": "outline"}]},
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "lora_incompatible")
