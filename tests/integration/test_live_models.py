"""Checkpoints of every family through the whole service: downloaded on first use, swapped beside running jobs."""

import base64
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image, ImageDraw

from tests.hub_double import HubDouble
from tests.hub_repository import HubRepository
from tests.integration.conftest import Live
from tests.integration.service import REPOSITORY, Service, environment, wait_for

# The tiny checkpoints' author imports torch; the service itself runs in processes of its own.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
FAMILIES = ("sd1", "sd2", "sdxl", "sd3")
SIDE = 64
REGISTER = """
from models_registry.models import Checkpoint
for family in {families!r}:
    Checkpoint.objects.create(
        id=f"tiny-{{family}}", name=family, repository=f"tiny/{{family}}", family=family, licence="mit",
        default_width={side}, default_height={side}, min_size={side}, max_size=256,
    )
"""


class Hubbed(Live):
    """A running service and the Hub it downloads from."""

    def __init__(self, service: Service, repositories: dict[str, HubRepository]) -> None:
        super().__init__(service)
        self.repositories = repositories

    def model(self, family: str) -> dict[str, Any]:
        """What the list says about a tiny checkpoint."""
        found: dict[str, Any] = self.http.get(f"/api/v1/models/tiny-{family}").json()
        return found

    def draw(self, family: str, **fields: Any) -> dict[str, Any]:
        """A generation on a tiny checkpoint, waited for."""
        request = {"prompt": "a red circle", "model": f"tiny-{family}", "steps": 4, "seed": 7} | fields
        answer = self.http.post("/api/v1/generate/txt2img", json=request)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubDouble]:
    """A Hub."""
    double = HubDouble()
    yield double
    double.stop()


@pytest.fixture(scope="module")
def hubbed(hub: HubDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hubbed]:
    """The whole service, with tiny checkpoints of every family registered and none of them on disk."""
    from tests.tiny_checkpoints import make_tiny_checkpoint

    root: Path = tmp_path_factory.mktemp("hubbed")
    repositories = {
        family: HubRepository(hub, f"tiny/{family}", make_tiny_checkpoint(family, root / "hub" / family))
        for family in FAMILIES
    }
    (root / "service").mkdir()
    service = Service(root / "service" / "data", HF_ENDPOINT=hub.url, WAIT_LIMIT_S="120")
    try:
        service.wait_ready()
        subprocess.run(
            [
                sys.executable,
                str(REPOSITORY / "manage.py"),
                "shell",
                "-c",
                REGISTER.format(families=FAMILIES, side=SIDE),
            ],
            env=environment() | {"DATA_DIR": str(service.data_dir)},
            check=True,
            capture_output=True,
        )
        client = Hubbed(service, repositories)
        with client.http:
            yield client
    finally:
        service.end(signal.SIGTERM)


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
    assert (model["state"], model["revision"]) == ("present", hubbed.repositories[family].commit)
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
    long = {"prompt": "a blue star", "model": "builtin", "width": 512, "height": 512, "steps": 100, "seed": 3}
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


def test_without_a_network_everything_present_is_served(hubbed: Hubbed, hub: HubDouble) -> None:
    """Also by a worker that starts from cold; what is not there fails and says so."""
    before = hubbed.draw("sdxl")["images"][0]["sha256"]
    hub.stop()
    worker = next(process for process in hubbed.service.family() if "gpu_worker" in process.cmdline())
    worker.send_signal(signal.SIGKILL)
    wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "the end")
    assert hubbed.draw("sdxl")["images"][0]["sha256"] == before
    request = {"prompt": "a red circle", "model": "sd-1-5"}
    answer = hubbed.http.post("/api/v1/generate/txt2img", json=request)
    assert (answer.status_code, answer.json()["code"]) == (503, "model_unavailable")
