"""Faults of what the service stands on, one at a time, while it runs: what `docs/operations.md` says of each."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import redis

from generation.pictures.availability import LOOK_EVERY_S
from imagegen_project.standalone import paths
from models_registry import builtin
from tests.support.clocks import SEARCH_PATH, clock_replace, clock_set
from tests.support.clusters import cluster_copy
from tests.support.disks import Disk, small_disk
from tests.support.live import Live
from tests.support.lora_files import assemble
from tests.support.pictures import PICTURE, text_of
from tests.support.service import Service, wait_for

FAILPOINTS = Path(__file__).parent / "failpoints"
# Long enough for something to happen meanwhile.
SLOW: dict[str, Any] = {"prompt": "a slow square", "steps": 20}
LEASE_S = 10
FREE_MB = 24


class Faulty(Live):
    """A running service whose pictures lie on a disk of their own."""

    def __init__(self, service: Service, disk: Disk, *, can_hurt_it: bool) -> None:
        super().__init__(service)
        self.disk = disk
        self.can_hurt_disk = can_hurt_it
        # Where transitions are armed at which a process ends.
        self.points = service.data_dir.parent / "points"
        self.points.mkdir()

    def worker(self) -> psutil.Process:
        """Its GPU worker."""
        return next(process for process in self.service.family() if "gpu_worker" in process.cmdline())

    def log(self) -> str:
        """What the worker has said."""
        return (self.service.data_dir / "logs" / "gpu-worker.log").read_text()

    def ready(self) -> dict[str, Any]:
        """What readiness says."""
        body: dict[str, Any] = self.http.get("/health/ready").json()
        return body

    def execute(self, statement: str) -> None:
        """Tells the service's database something."""
        with psycopg.connect(paths.database_url(self.service.data_dir), autocommit=True) as connection:
            connection.execute(statement.encode())

    def assert_drawn_once(self, job_id: str) -> None:
        """One attempt, one picture that can be had, and nothing beside it."""
        job = self.wait(job_id)
        assert (job["status"], job["attempt"], job["attempt_log"]) == ("succeeded", 1, []), job
        assert self.picture(job_id).startswith(b"\x89PNG")
        assert self.files_of(job_id) == ["1-0.png"]

    def files_of(self, job_id: str) -> list[str]:
        """What lies on the disk for a job."""
        return [name.rpartition("/")[2] for name in self.disk.files() if job_id in name]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """A service that does quick things slowly where a prompt asks for it."""
    folder: Path = tmp_path_factory.mktemp("faulty")
    with ExitStack() as stack:
        disk, can_hurt_it = Disk(folder / "media"), False
        with suppress(pytest.skip.Exception):
            disk = stack.enter_context(small_disk(disk.folder, megabytes=FREE_MB))
            can_hurt_it = True
        cluster_copy(folder / "data")
        service = Service(
            folder / "data",
            MEDIA_ROOT=str(disk.folder),
            PYTHONPATH=str(FAILPOINTS),
            FAILPOINTS_DIR=str(folder / "points"),
            SLOW_STEP_S="0.2",
            LEASE_S=str(LEASE_S),
            WORKER_GRACE_S="1",
            WAIT_LIMIT_S="120",
        )
        try:
            service.wait_ready()
            client = Faulty(service, disk, can_hurt_it=can_hurt_it)
            with client.http:
                yield client
        finally:
            service.end(signal.SIGTERM)


@pytest.fixture
def disk(faulty: Faulty) -> Disk:
    """The disk of its pictures, which can be hurt."""
    if not faulty.can_hurt_disk:
        pytest.skip("only root may mount a disk")
    return faulty.disk


def test_a_picture_that_is_drawn_as_the_disk_fills_waits_for_room(faulty: Faulty, disk: Disk) -> None:
    """It stays in memory and is written by the attempt that drew it; the job's user sees it running meanwhile."""
    job = faulty.create(**SLOW)["id"]
    faulty.wait(job, "running")
    disk.fill()
    try:
        wait_for(lambda: "storage takes no pictures" in faulty.log(), "the worker notices")
        assert faulty.get(job)["status"] == "running"
        wait_for(lambda: faulty.ready()["status"] == "degraded", "the worker's row says so")
        assert faulty.ready()["checks"]["storage"] == "full"
        waiting = faulty.create()["id"]
        refused = faulty.http.post(
            "/api/v1/generations", json={"prompt": "a circle", "image": text_of(PICTURE)}
        )
        assert (refused.status_code, refused.json()["code"]) == (507, "storage_unavailable")
    finally:
        disk.make_room()
    faulty.assert_drawn_once(job)
    faulty.assert_drawn_once(waiting)
    wait_for(lambda: faulty.ready()["status"] == "ready", "readiness")


def test_what_is_asked_for_while_the_disk_is_read_only_waits_in_the_queue(faulty: Faulty, disk: Disk) -> None:
    """Nobody draws what could not be stored; what there is can be seen, and deleted."""
    done = faulty.create()["id"]
    faulty.wait(done, "succeeded")
    worker, said = faulty.worker(), faulty.log().count("storage takes no pictures")
    disk.read_only()
    try:
        wait_for(lambda: faulty.ready()["checks"]["storage"] == "read_only", "readiness")
        time.sleep(LOOK_EVERY_S)  # what the worker saw before is out of date then
        job = faulty.create()["id"]
        assert faulty.picture(done)
        assert faulty.http.delete(f"/api/v1/generations/{done}").status_code == 204
        assert faulty.http.get(f"/api/v1/generations/{done}").status_code == 404
        wait_for(lambda: faulty.log().count("storage takes no pictures") > said, "the worker notices")
        assert (faulty.get(job)["status"], faulty.worker().pid) == ("queued", worker.pid)
    finally:
        disk.read_only(on=False)
    faulty.assert_drawn_once(job)


def test_jobs_are_drawn_while_redis_has_no_memory(faulty: Faulty) -> None:
    """Nothing can be pushed, published or counted; a request that waits gets its picture, and no process restarts."""
    with redis.Redis.from_url(paths.redis_url(faulty.service.data_dir)) as client:
        limits = {name: client.config_get(name)[name] for name in ("maxmemory", "maxmemory-policy")}
        assert int(limits["maxmemory"]) > 0, "the embedded server has a bound"
        assert limits["maxmemory-policy"] == "volatile-lru", "and what has an end goes first"
        before = {process.pid for process in faulty.service.family()}
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                client.set("x", 1)
            answer = faulty.http.post("/api/v1/generate/txt2img", json={"prompt": "a red circle", "steps": 2})
            assert answer.status_code == 200, answer.text
            assert answer.json()["images"][0]["b64_json"]
            assert faulty.http.get("/health").status_code == 200
        finally:
            for name, value in limits.items():
                client.config_set(name, value)
    assert {process.pid for process in faulty.service.family() if is_ours(process)} <= before


def is_ours(process: psutil.Process) -> bool:
    """Whether a process is one of the service's own; PostgreSQL starts one for each connection."""
    with suppress(psutil.Error):
        return "imagegen_project" in " ".join(process.cmdline())
    return False


def test_no_lease_runs_out_because_postgresqls_clock_is_set(faulty: Faulty) -> None:
    """Forwards and back, an hour each; the job that runs goes on in its first attempt."""
    with psycopg.connect(paths.database_url(faulty.service.data_dir), autocommit=True) as connection:
        clock_replace(connection.execute)
        connection.execute(f"ALTER DATABASE {paths.DATABASE_NAME} SET search_path = {SEARCH_PATH}".encode())
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        try:
            wait_for(lambda: faulty.ready()["workers"] == 1, "the worker on a new connection")
            job = faulty.create(**SLOW | {"steps": 60})["id"]
            for seconds in (3600, 0):
                before = faulty.wait(job, "running")["step"]
                clock_set(connection.execute, seconds=seconds)
                wait_for(lambda before=before: faulty.get(job)["step"] > before + 10, "progress")
            faulty.assert_drawn_once(job)
        finally:
            connection.execute(f"ALTER DATABASE {paths.DATABASE_NAME} RESET search_path".encode())
            connection.execute("DROP SCHEMA shifted CASCADE")
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
    wait_for(lambda: faulty.ready()["workers"] == 1, "the worker on a new connection")


def test_a_worker_that_was_stopped_finds_that_its_job_is_no_longer_its_own(faulty: Faulty) -> None:
    """The job goes back when its lease has run out; what the old attempt still does changes nothing."""
    job = faulty.create(**SLOW)["id"]
    faulty.wait(job, "running")
    worker = faulty.worker()
    worker.suspend()
    try:
        wait_for(lambda: faulty.get(job)["status"] == "queued", "the lease is taken back")
    finally:
        worker.resume()
    done = faulty.wait(job)
    assert (done["status"], done["attempt"]) == ("succeeded", 2)
    assert [entry["reason"] for entry in done["attempt_log"]] == ["worker_lost"]
    assert faulty.files_of(job) == ["2-0.png"]
    assert faulty.worker().pid == worker.pid


def fitting_lora() -> bytes:
    """One that fits the built-in model: a shipped one, as a file of its own."""
    shipped = (builtin.ADAPTERS / "outline.safetensors").read_bytes()
    end = 8 + int.from_bytes(shipped[:8], "little")
    header = json.loads(shipped[8:end])
    header["__metadata__"] = header.get("__metadata__", {}) | {"title": "deadly"}
    return assemble(json.dumps(header).encode(), shipped[end:])


@pytest.mark.long
def test_a_lora_that_ends_two_workers_is_put_out_of_use(faulty: Faulty) -> None:
    """Both die by SIGKILL while they put it on a model; its job says why it fails, and others are drawn."""
    file = {"file": ("deadly.safetensors", fitting_lora(), "application/octet-stream")}
    sent = faulty.http.post("/api/v1/loras/upload", files=file, data={"name": "deadly"})
    assert sent.status_code == 202, sent.text
    lora = sent.headers["Location"]
    wait_for(lambda: faulty.http.get(lora).json()["state"] == "present", "the LoRA")
    armed = faulty.points / "attaching"
    armed.write_text("1")  # each time
    try:
        job = faulty.wait(faulty.create(loras=[{"lora": "deadly", "scale": 1.0}])["id"])
    finally:
        armed.unlink()
    assert (job["status"], job["error"]["code"]) == ("failed", "lora_unavailable")
    assert "2 GPU workers died" in job["error"]["detail"]
    assert len((faulty.points / "deaths").read_text().splitlines()) == 2
    assert faulty.http.get(lora).json()["state"] == "broken"
    faulty.assert_drawn_once(faulty.create()["id"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=["restarted", "crashed"])
def test_a_job_outlasts_its_database(faulty: Faulty, number: signal.Signals) -> None:
    """PostgreSQL ends and is started again; the worker draws on and says so afterwards."""
    job = faulty.create(**SLOW)["id"]
    faulty.wait(job, "running")
    server = next(
        process
        for process in psutil.Process(faulty.service.process.pid).children()
        if process.cmdline()[0].endswith("/postgres")
    )
    server.send_signal(number)
    wait_for(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, "its end")
    wait_for(lambda: faulty.http.get("/health/ready").status_code == 200, "its return")
    done = faulty.wait(job)
    assert done["status"] == "succeeded"
    assert faulty.picture(job)
