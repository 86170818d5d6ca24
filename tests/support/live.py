"""A running service, and the Hub it downloads from, for all tests that only need one."""

import functools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGCONT, SIGSTOP, SIGTERM
from typing import Any

import httpx2
import psutil
import pytest
from PIL import Image

from models_registry import builtin
from tests.support.clusters import cluster_copy
from tests.support.groups import SHARING_SERVICES, group_of
from tests.support.hub import HubDouble
from tests.support.hub_repository import HubRepository
from tests.support.pictures import encoded, text_of
from tests.support.service import REPOSITORY, SAFETY_S, Service, environment, port_free, wait_for

# The tiny checkpoints' author imports torch; the service itself runs in processes of its own.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
FAMILIES = ("sd1", "sd2", "sdxl", "sd3")
# The other tiny checkpoints, and their families.
OTHER_FAMILIES = {
    "sdxl-inpaint": "sdxl",
    "flux": "flux",
    "flux-schnell": "flux",
    "flux-kontext": "flux",
    "flux2-klein": "flux2",
    "qwen-image": "qwen-image",
    "qwen-image-edit": "qwen-image",
    "qwen-image-edit-plus": "qwen-image",
    "z-image": "z-image",
    "chroma": "chroma",
    "sana": "sana",
    "pixart": "pixart",
    "lumina2": "lumina2",
    "hidream": "other",
}
SIDE = 64
REGISTER = """
from models_registry.models import Checkpoint
for name, family in {families!r}.items():
    Checkpoint.objects.create(
        id=f"tiny-{{name}}", name=name, repository=f"tiny/{{name}}", family=family, licence="mit",
        default_width={side}, default_height={side}, min_size={side}, max_size=256,
    )
"""


class Live:
    """A client of the running service, as its local user."""

    def __init__(self, service: Service, *, site: str = "") -> None:
        self.service = service
        # Another site, on a free port of this machine, whose pages may call the service.
        self.site = site
        self.url = f"http://127.0.0.1:{service.port}"
        self.token = (service.data_dir / "token").read_text().strip()
        self.headers = {"Authorization": f"Bearer {self.token}"}
        self.http = httpx2.Client(base_url=self.url, headers=self.headers, timeout=SAFETY_S)

    def shell(self, code: str) -> str:
        """Runs code in a process of the service's own installation, for what no client may do; what it printed."""
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / "manage.py"), "shell", "-v", "0", "-c", code],
            env=environment() | {"DATA_DIR": str(self.service.data_dir)},
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout

    def socket_url(self, job_id: str, query: str = "") -> str:
        """The address of a generation's feed."""
        return f"ws://127.0.0.1:{self.service.port}/ws/generations/{job_id}/{query}"

    def create(self, **fields: Any) -> dict[str, Any]:
        """Stores a quick generation."""
        request = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 2} | fields
        response = self.http.post("/api/v1/generations", json=request)
        assert response.status_code == 202, response.text
        body: dict[str, Any] = response.json()
        return body

    def gpu_worker(self) -> psutil.Process:
        """The GPU worker's process, once there is one."""
        found: list[psutil.Process] = []

        def is_there() -> bool:
            for process in self.service.family():
                with suppress(psutil.Error):  # who has just died has no command line
                    found.extend([process] if "gpu_worker" in process.cmdline() else [])
            return bool(found)

        wait_for(is_there, "a GPU worker")
        return found[0]

    @contextmanager
    def undrawn(self) -> Iterator[None]:
        """What is asked for inside stays queued: the GPU worker is stopped while it is idle, and no core is busy."""
        open_jobs = "SELECT 1 FROM generation_generation WHERE finished_at IS NULL"
        wait_for(lambda: not self.service.sql(open_jobs), "an idle worker")
        with self.held():
            yield

    @contextmanager
    def held(self) -> Iterator[psutil.Process]:
        """Inside, the GPU worker stands still in the middle of whatever it does."""
        worker = self.gpu_worker()
        worker.send_signal(SIGSTOP)
        try:
            yield worker
        finally:
            with suppress(psutil.NoSuchProcess):  # it was killed
                worker.send_signal(SIGCONT)

    @contextmanager
    def web_beside(self, **variables: str) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
        """The address of one more web process of the service, with other settings, and the process."""
        # It needs Django's settings, which benchmarks have not.
        from imagegen_project.standalone.service import web_command

        port = port_free()
        log = (self.service.data_dir.parent / f"web-{port}.log").open("w")
        process = subprocess.Popen(
            web_command(host="127.0.0.1", port=port),
            cwd=REPOSITORY,
            env=environment() | {"DATA_DIR": str(self.service.data_dir)} | variables,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            assert process.poll() is None, f"see {log.name}"
            with suppress(httpx2.TransportError):
                return httpx2.get(f"{url}/health").status_code == 200
            return False

        try:
            wait_for(answers, "an answer")
            yield url, process
        finally:
            process.terminate()
            process.wait(SAFETY_S)
            log.close()

    def occupy(self) -> dict[str, Any]:
        """A job that keeps the worker busy for long: large as it is drawn, and no other job joins it."""
        picture = text_of(encoded(Image.new("RGB", (1024, 1024), "white")))
        return self.create(
            steps=100,
            width=1024,
            height=1024,
            num_images=10,
            image=picture,
            strength=1.0,
            reproducible=True,
        )

    def get(self, job_id: str) -> dict[str, Any]:
        """A generation as it stands."""
        body: dict[str, Any] = self.http.get(f"/api/v1/generations/{job_id}").json()
        return body

    def wait(self, job_id: str, *statuses: str) -> dict[str, Any]:
        """Waits for one of the statuses (by default for any end)."""
        wanted = statuses or ("succeeded", "failed", "canceled")
        deadline = time.monotonic() + SAFETY_S
        while (body := self.get(job_id))["status"] not in wanted:
            assert time.monotonic() < deadline, body
            time.sleep(0.1)
        return body

    def picture(self, job_id: str, index: int = 0) -> bytes:
        """A finished picture's file."""
        response = self.http.get(f"/api/v1/generations/{job_id}/images/{index}")
        assert response.status_code == 200, response.text
        return response.content


_running: list[Service] = []


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """Ends the service behind the last test of who shares it: an idle one would cost the rest a tenth of a core."""
    if nextitem and group_of(nextitem.nodeid) not in SHARING_SERVICES:
        while _running:
            _running.pop().end(SIGTERM)


@pytest.fixture(scope="session")
def live_hub() -> Iterator[HubDouble]:
    """The Hub of the running service."""
    double = HubDouble()
    yield double
    double.stop()


@pytest.fixture(scope="session")
def live(live_hub: HubDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The whole service on embedded servers; small limits, so that tests reach them quickly."""
    data_dir: Path = tmp_path_factory.mktemp("live") / "data"
    site = f"http://localhost:{port_free()}"
    variables = {"LEASE_S": "5", "MAX_BODY_MB": "1", "WORKER_GRACE_S": "1", "WAIT_LIMIT_S": "240"}
    cluster_copy(data_dir)
    service = Service(data_dir, CORS_ALLOWED_ORIGINS=site, HF_ENDPOINT=live_hub.url, **variables)
    _running.append(service)
    try:
        service.wait_ready()
        client = Live(service, site=site)
        with client.http:
            yield client
    finally:
        service.end(SIGTERM)


class Hubbed(Live):
    """A running service and the Hub it downloads from."""

    def __init__(self, service: Service, repository: Callable[[str], HubRepository]) -> None:
        super().__init__(service)
        # That of a tiny checkpoint; those of other families are made when they are first asked for.
        self.repository = repository

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


@pytest.fixture(scope="session")
def hubbed(live: Live, live_hub: HubDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hubbed]:
    """The same service, with tiny checkpoints of every family registered and none of them on disk."""
    from tests.support.tiny_checkpoints import tiny_checkpoint_copy

    root: Path = tmp_path_factory.mktemp("hubbed")
    families = {family: family for family in FAMILIES} | OTHER_FAMILIES

    @functools.cache
    def repository(name: str) -> HubRepository:
        return HubRepository(live_hub, f"tiny/{name}", tiny_checkpoint_copy(name, root / "hub" / name))

    for family in FAMILIES:
        repository(family)
    (root / "adapters").mkdir()
    shutil.copy(builtin.ADAPTERS / "outline.safetensors", root / "adapters")
    HubRepository(live_hub, "org/outline", root / "adapters")
    client = Hubbed(live.service, repository)
    client.shell(REGISTER.format(families=families, side=SIDE))
    with client.http:
        yield client
