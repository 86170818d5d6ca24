"""Prefetching for real: each family's checkpoint, processes that are killed, and a disk that is full."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
from diffusers import AutoPipelineForText2Image
from django.conf import settings as django_settings
from django.db import connection
from pytest_django import Settings

from generation.upkeep.sweep import sweep
from imagegen_project import env
from imagegen_project.common.queues import DOWNLOADS_QUEUE, entries_waiting
from models_registry import downloads, hub
from models_registry.choices import DiskState
from models_registry.downloads import checkpoint_prefetch, download_next
from models_registry.errors import DownloadFailedError
from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_folder
from models_registry.services import checkpoint_request_download
from tests.support.hub import HubDouble
from tests.support.hub_repository import HubRepository
from tests.support.repositories import NEEDED, UNET, safetensors_bytes, write_files, write_repository
from tests.support.service import REPOSITORY, environment, wait_for
from tests.support.tiny_checkpoints import TINY_FAMILIES, tiny_checkpoint_copy

pytestmark = pytest.mark.django_db(transaction=True)

MEGABYTE = 1 << 20


@pytest.fixture
def cache(settings: Settings, tmp_path: Path) -> Path:
    """An empty model cache."""
    settings.MODEL_CACHE_DIR = tmp_path / "models"
    return tmp_path / "models"


@pytest.fixture
def double(settings: Settings, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    """The Hub."""
    hub_double = HubDouble()
    settings.HF_ENDPOINT = hub_double.url
    settings.HF_TOKEN = ""
    monkeypatch.setattr(downloads, "DISK_MARGIN_BYTES", 0)
    yield hub_double
    hub_double.stop()


@pytest.fixture
def large(double: HubDouble, tmp_path: Path) -> HubRepository:
    """sd-1-5's repository, with a file that takes seconds."""
    folder = write_repository(tmp_path / "repository")
    write_files(folder, {UNET: safetensors_bytes(16 * MEGABYTE)})
    repository = HubRepository(double, "stable-diffusion-v1-5/stable-diffusion-v1-5", folder)
    repository.faults[UNET] = "slow"
    return repository


def start(double: HubDouble, cache: Path, *command: str) -> "subprocess.Popen[bytes]":
    """A management command on the suite's servers."""
    database = connection.settings_dict
    user, password = (quote(str(database[name]), safe="") for name in ("USER", "PASSWORD"))
    url = f"postgresql://{user}:{password}@/{database['NAME']}?host={quote(str(database['HOST']), safe='')}"
    variables = {
        "DJANGO_SETTINGS_MODULE": "imagegen_project.settings",
        "DATA_DIR": str(env.DATA_DIR),
        "DATABASE_URL": url,
        "REDIS_URL": django_settings.REDIS_URL,
        "MODEL_CACHE_DIR": str(cache),
        "HF_ENDPOINT": double.url,
    }
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "manage.py"), *command],
        cwd=cache.parent,
        env=environment() | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def arrived(cache: Path) -> int:
    """Bytes of the large file so far."""
    return sum(path.stat().st_size for path in cache.glob(f"sd-1-5/.staging-*/{UNET}.part"))


def visible(cache: Path) -> set[str]:
    """What a loader could find."""
    paths = [path.relative_to(cache / "sd-1-5") for path in cache.glob("sd-1-5/**/*") if path.is_file()]
    return {str(Path(*path.parts[1:])) for path in paths if not path.parts[0].startswith(".")}


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_each_family_arrives_loads_and_draws(double: HubDouble, tmp_path: Path, family: str) -> None:
    """With the Hub gone by then."""
    HubRepository(double, f"tiny/{family}", tiny_checkpoint_copy(family, tmp_path / family))
    row = Checkpoint.objects.create(
        id=f"tiny-{family}", name=family, repository=f"tiny/{family}", family=family, licence="mit"
    )
    assert checkpoint_prefetch(checkpoint=row)
    double.stop()
    row.refresh_from_db()
    assert not checkpoint_prefetch(checkpoint=row)
    pipeline = AutoPipelineForText2Image.from_pretrained(
        checkpoint_folder(row), use_safetensors=True, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a red circle", num_inference_steps=1, width=64, height=64).images[0]
    assert picture.size == (64, 64)


def test_a_killed_downloader_is_replaced_and_goes_on(
    double: HubDouble, cache: Path, large: HubRepository
) -> None:
    """SIGKILL in the middle: nothing is half-present, the sweep notices, and the rest is fetched, not the whole."""
    process = start(double, cache, "prefetch_models", "sd-1-5")
    wait_for(lambda: arrived(cache) >= 2 * MEGABYTE, "two megabytes")
    process.send_signal(signal.SIGKILL)
    process.wait()
    row = Checkpoint.objects.get(id="sd-1-5")
    assert row.state == DiskState.DOWNLOADING
    assert visible(cache) == set()
    sweep()
    assert entries_waiting(DOWNLOADS_QUEUE) == 0  # it may still live
    Checkpoint.objects.filter(pk=row.pk).update(download_alive_at="2020-01-01T00:00:00Z")
    sweep()
    assert entries_waiting(DOWNLOADS_QUEUE) == 1
    there = arrived(cache)
    large.faults.clear()
    large.bytes_sent = 0
    download_next()
    row.refresh_from_db()
    assert row.state == DiskState.PRESENT
    assert visible(cache) == NEEDED
    assert large.bytes_sent == (large.folder / UNET).stat().st_size - there
    assert any(request.headers.get("range") == f"bytes={there}-" for request in large.requests())


def test_a_task_worker_downloads_and_leaves_it_when_told_to_stop(
    double: HubDouble, cache: Path, large: HubRepository
) -> None:
    """SIGTERM in the middle hands the download back; the next worker's sweep takes it up and it ends present."""
    checkpoint_request_download(checkpoint=Checkpoint.objects.get(id="sd-1-5"))
    process = start(double, cache, "task_worker")
    try:
        wait_for(lambda: arrived(cache) >= 2 * MEGABYTE, "two megabytes")
        assert torch_free(process)
    finally:
        process.terminate()
        process.wait()
    row = Checkpoint.objects.get(id="sd-1-5")
    assert (row.state, row.error_code) == (DiskState.ABSENT, "")
    assert row.download_requested_at is not None
    large.faults.clear()
    large.bytes_sent = 0
    process = start(double, cache, "task_worker")
    try:
        wait_for(lambda: Checkpoint.objects.get(id="sd-1-5").state == DiskState.PRESENT, "the download")
    finally:
        process.terminate()
        process.wait()
    assert visible(cache) == NEEDED
    assert large.bytes_sent < (large.folder / UNET).stat().st_size


def torch_free(process: "subprocess.Popen[bytes]") -> bool:
    """Whether a process has torch's library in its memory."""
    return not any("libtorch" in mapped.path for mapped in psutil.Process(process.pid).memory_maps())


@pytest.fixture
def small_disk(cache: Path) -> Iterator[Path]:
    """A disk of eight megabytes under the model cache."""
    cache.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(cache)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"mounting is refused here: {mounted.stderr.strip()}")
    yield cache
    subprocess.run(["umount", "-l", str(cache)], check=True)


def test_a_disk_that_is_too_small_is_said_before_anything_is_fetched(
    small_disk: Path, large: HubRepository
) -> None:
    """Sixteen megabytes do not fit into eight."""
    with pytest.raises(DownloadFailedError, match="MB left"):
        checkpoint_prefetch(checkpoint=Checkpoint.objects.get(id="sd-1-5"))
    row = Checkpoint.objects.get(id="sd-1-5")
    assert (row.state, row.error_code) == (DiskState.ABSENT, "disk_full")
    assert not any(UNET in request.path for request in large.requests())


def test_a_disk_that_fills_up_meanwhile_is_left_clean(
    small_disk: Path, double: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else wrote to it: stated, what had arrived is gone, and with room it works."""
    folder = write_repository(tmp_path / "repository", size=3 * MEGABYTE)
    HubRepository(double, "stable-diffusion-v1-5/stable-diffusion-v1-5", folder)
    monkeypatch.setattr(hub, "CHUNK_BYTES", 64 * 1024)
    neighbour = small_disk / "neighbour"

    def fill(done: int, total: int) -> None:
        if done > MEGABYTE and not neighbour.exists():
            neighbour.write_bytes(bytes(6 * MEGABYTE))

    with pytest.raises(DownloadFailedError, match="is full"):
        checkpoint_prefetch(checkpoint=Checkpoint.objects.get(id="sd-1-5"), on_progress=fill)
    row = Checkpoint.objects.get(id="sd-1-5")
    assert (row.state, row.error_code) == (DiskState.ABSENT, "disk_full")
    assert not [path for path in small_disk.glob("sd-1-5/**/*") if path.is_file() and path.stat().st_size]
    neighbour.unlink()
    assert checkpoint_prefetch(checkpoint=row)
    assert visible(small_disk) == NEEDED
