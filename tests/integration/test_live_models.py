"""Checkpoints of every family through the whole service: downloaded on first use, swapped beside running jobs."""

import base64
import io
import signal

import psutil
import pytest
from PIL import Image, ImageDraw

from tests.support.hub import HubDouble
from tests.support.live import FAMILIES, SIDE, Hubbed
from tests.support.service import wait_for


def picture(colour: str = "red") -> str:
    """A PNG as base64."""
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), colour).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_downloaded_on_first_use_and_draws(hubbed: Hubbed, family: str) -> None:
    """Every kind; the list says that its files are there and that it is resident."""
    assert hubbed.model(family)["state"] == "absent"
    body = hubbed.draw(family)
    with Image.open(io.BytesIO(base64.b64decode(body["images"][0]["b64_json"]))) as image:
        assert image.size == (SIDE, SIDE)
    wait_for(lambda: hubbed.model(family)["workers"][0]["tier"] == "resident", "the worker's next heartbeat")
    model = hubbed.model(family)
    assert (model["state"], model["revision"]) == ("present", hubbed.repository(family).commit)
    request = {"prompt": "a red circle", "model": f"tiny-{family}", "steps": 4, "image": picture()}
    changed = hubbed.http.post("/api/v1/generate/img2img", json=request | {"strength": 0.5}).json()
    assert (changed["status"], changed["kind"], changed["total_steps"]) == ("succeeded", "img2img", 2)
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).rectangle((0, 0, SIDE // 2, SIDE), fill=255)
    buffer = io.BytesIO()
    mask.save(buffer, format="PNG")
    request |= {"mask_image": base64.b64encode(buffer.getvalue()).decode()}
    inpainted = hubbed.http.post("/api/v1/generate/img2img", json=request).json()
    assert (inpainted["status"], inpainted["kind"]) == ("succeeded", "inpaint"), inpainted
    with Image.open(io.BytesIO(base64.b64decode(inpainted["images"][0]["b64_json"]))) as image:
        assert image.getpixel((SIDE - 1, SIDE - 1)) == (255, 0, 0)


def test_a_model_loads_while_another_draws(hubbed: Hubbed) -> None:
    """The load is answered before the running job ends, and the job's picture is that of an undisturbed run."""
    long = {"prompt": "a blue star", "model": "builtin", "width": 512, "height": 512, "steps": 60, "seed": 3}
    hubbed.http.post("/api/v1/models/unload", json={"model": "tiny-sdxl"})
    undisturbed = hubbed.http.post("/api/v1/generate/txt2img", json=long).json()["images"][0]["sha256"]
    job = hubbed.create(**long)["id"]
    hubbed.wait(job, "running")
    loaded = hubbed.http.post("/api/v1/models/load", json={"model": "tiny-sdxl"})
    assert (loaded.status_code, loaded.json()["status"]) == (200, "succeeded")
    assert hubbed.get(job)["status"] == "running"
    assert hubbed.model("sdxl")["workers"][0]["tier"] == "resident"
    assert hubbed.wait(job)["images"][0]["sha256"] == undisturbed


def test_a_damaged_file_is_found_and_mended(hubbed: Hubbed) -> None:
    """The job fails and says why, nothing loads the files again, and the next request downloads them anew."""
    hubbed.http.post("/api/v1/models/unload", json={"model": "tiny-sd2"})
    before = hubbed.draw("sd2")["images"][0]["sha256"]
    hubbed.http.post("/api/v1/models/unload", json={"model": "tiny-sd2"})
    folder = hubbed.service.data_dir / "models" / "tiny-sd2"
    weights = next(folder.rglob("unet/*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    request = {"prompt": "a red circle", "model": "tiny-sd2", "steps": 4, "seed": 7}
    answer = hubbed.http.post("/api/v1/generate/txt2img", json=request)
    assert (answer.status_code, answer.json()["code"]) == (503, "model_unavailable")
    assert hubbed.model("sd2")["state"] == "broken"
    assert hubbed.draw("sd2")["images"][0]["sha256"] == before


def test_without_a_network_everything_present_is_served(hubbed: Hubbed, live_hub: HubDouble) -> None:
    """Also by a worker that starts from cold; what is not there fails and says so."""
    before = hubbed.draw("sdxl")["images"][0]["sha256"]
    with live_hub.away():
        worker = next(process for process in hubbed.service.family() if "gpu_worker" in process.cmdline())
        worker.send_signal(signal.SIGKILL)
        wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "the end")
        assert hubbed.draw("sdxl")["images"][0]["sha256"] == before
        request = {"prompt": "a red circle", "model": "sd-1-5"}
        answer = hubbed.http.post("/api/v1/generate/txt2img", json=request)
        assert (answer.status_code, answer.json()["code"]) == (503, "model_unavailable")
