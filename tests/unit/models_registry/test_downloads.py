"""Downloading through the real client from a Hub on a loopback port: what arrives, and what is said when not."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from models_registry import downloads
from models_registry.choices import DiskState
from models_registry.downloads import check_files, checkpoint_complete, checkpoint_prefetch, download_next
from models_registry.errors import DownloadFailedError, DownloadLostError, DownloadStoppedError
from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_folder
from models_registry.services import (
    checkpoint_forget_files,
    checkpoint_mark_broken,
    checkpoint_request_download,
    download_claim,
)
from models_registry.signals import checkpoint_failed, checkpoint_progress, checkpoint_ready
from tests.support.hub import HubDouble
from tests.support.hub_repository import HubRepository
from tests.support.model_folders import on_disk, prefetch, staged
from tests.support.repositories import NEEDED, UNET, safetensors_bytes, write_files, write_repository

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_checkpoint_arrives_whole(row: Checkpoint, repository: HubRepository, settings: Settings) -> None:
    """The needed files, pinned to the commit, with a manifest; the folder has the bytes of the Hub."""
    assert prefetch(row)
    row.refresh_from_db()
    assert row.state == DiskState.PRESENT
    assert row.revision == repository.commit
    assert on_disk(row, settings) == set(row.files) == NEEDED
    folder = checkpoint_folder(row)
    assert folder == settings.MODEL_CACHE_DIR / "sd-1-5" / repository.commit
    for path in NEEDED:
        assert (folder / path).read_bytes() == (repository.folder / path).read_bytes()
    assert row.size_bytes == row.downloaded_bytes == sum((folder / path).stat().st_size for path in NEEDED)
    assert (row.error_code, row.download_requested_at, row.percent) == ("", None, 100.0)
    assert staged(row, settings) == {}


def test_again_is_nothing_to_do(row: Checkpoint, repository: HubRepository) -> None:
    """Not one request, so it works with the Hub gone too."""
    prefetch(row)
    seen = len(repository.hub.requests)
    assert not prefetch(row)
    assert len(repository.hub.requests) == seen
    repository.hub.stop()
    assert not prefetch(row)
    assert checkpoint_complete(Checkpoint.objects.get(pk=row.pk))


def test_a_pinned_commit_stays(row: Checkpoint, repository: HubRepository, settings: Settings) -> None:
    """A repository that moved on is not followed; the commit that is gone is said to be."""
    prefetch(row)
    write_files(repository.folder, {"unet/config.json": b'{"new": true}'})
    assert not prefetch(row)
    shutil.rmtree(settings.MODEL_CACHE_DIR)
    with pytest.raises(DownloadFailedError, match="does not have"):
        prefetch(row)


def test_one_commit_is_kept(row: Checkpoint, repository: HubRepository, settings: Settings) -> None:
    """With another source the former's files go, once the new ones are there."""
    prefetch(row)
    former = Checkpoint.objects.get(pk=row.pk).revision
    write_files(repository.folder, {"unet/config.json": b'{"new": true}'})
    checkpoint_forget_files(checkpoint=row)
    Checkpoint.objects.filter(pk=row.pk).update(revision="")
    assert prefetch(row)
    row.refresh_from_db()
    assert row.revision == repository.commit != former
    assert not (settings.MODEL_CACHE_DIR / row.pk / former).exists()
    assert on_disk(row, settings) == NEEDED


def test_an_interrupted_file_goes_on_where_it_stopped(
    row: Checkpoint, repository: HubRepository, settings: Settings
) -> None:
    """By a range request; no byte is fetched twice."""
    repository.faults[UNET] = "truncate"
    with pytest.raises(DownloadFailedError):
        prefetch(row)
    there = staged(row, settings)[f"{UNET}.part"]
    assert there > 0
    repository.faults.clear()
    repository.bytes_sent = 0
    assert prefetch(row)
    whole = (repository.folder / UNET).stat().st_size
    assert repository.bytes_sent == whole - there
    assert repository.requests()[-1].headers["range"] == f"bytes={there}-"


def test_a_hub_that_ignores_ranges_is_understood(
    row: Checkpoint, repository: HubRepository, settings: Settings
) -> None:
    """The file begins anew instead of holding its beginning twice."""
    repository.faults[UNET] = "truncate"
    with pytest.raises(DownloadFailedError):
        prefetch(row)
    repository.faults[UNET] = "whole"
    assert prefetch(row)
    assert on_disk(row, settings) == NEEDED


def test_a_fault_of_the_hub_that_passes_is_waited_for(
    row: Checkpoint, repository: HubRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad gateway does not end a download."""
    monkeypatch.setattr("models_registry.hub.time.sleep", lambda seconds: repository.faults.clear())
    repository.faults[UNET] = "500"
    assert prefetch(row)


def test_the_safety_checker_comes_once_the_filter_is_on(
    row: Checkpoint, repository: HubRepository, settings: Settings
) -> None:
    """Also for a checkpoint that was there without it; nothing else is fetched again."""
    write_repository(repository.folder, safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    checker = "safety_checker/model.safetensors"
    write_files(repository.folder, {checker: safetensors_bytes(20_000)})
    settings.SAFETY_FILTER = "off"
    prefetch(row)
    assert checker not in on_disk(row, settings)
    settings.SAFETY_FILTER = "block"
    repository.bytes_sent = 0
    assert prefetch(row)
    assert checker in on_disk(row, settings)
    assert repository.bytes_sent == (repository.folder / checker).stat().st_size
    assert not prefetch(row)


def test_a_lost_database_finds_its_files_again(row: Checkpoint, repository: HubRepository) -> None:
    """They are verified instead of being fetched anew."""
    prefetch(row)
    checkpoint_forget_files(checkpoint=row)
    repository.bytes_sent = 0
    assert prefetch(row)
    assert repository.bytes_sent == 0


def test_signals_tell_of_progress_and_of_the_end(row: Checkpoint, repository: HubRepository) -> None:
    """Percentages that grow, then one end."""
    seen: list[tuple[str, float]] = []

    def note(name: str) -> Any:
        return lambda checkpoint, **kwargs: seen.append((name, checkpoint.percent))

    receivers = {
        signal: note(name)
        for name, signal in (
            ("progress", checkpoint_progress),
            ("ready", checkpoint_ready),
            ("failed", checkpoint_failed),
        )
    }
    for signal, function in receivers.items():
        signal.connect(function)
    try:
        repository.faults[UNET] = "flip"
        with pytest.raises(DownloadFailedError):
            prefetch(row)
        assert seen[-1][0] == "failed"
        seen.clear()
        repository.faults.clear()
        prefetch(row)
    finally:
        for signal, function in receivers.items():
            signal.disconnect(function)
    assert seen[-1] == ("ready", 100.0)
    shares = [percent for name, percent in seen if name == "progress"]
    assert shares == sorted(shares)
    assert len(set(shares)) > 2


def test_only_one_process_downloads(row: Checkpoint, repository: HubRepository) -> None:
    """The other is told so; a download without signs of life is taken over, and its writes are void."""
    first = download_claim(checkpoint=row)
    assert first is not None
    assert download_claim(checkpoint=row) is None
    with pytest.raises(DownloadLostError):
        prefetch(row)
    Checkpoint.objects.filter(pk=row.pk).update(download_alive_at="2020-01-01T00:00:00Z")
    assert prefetch(row)
    with pytest.raises(DownloadLostError):
        downloads.download_run(checkpoint=first)
    row.refresh_from_db()
    assert row.state == DiskState.PRESENT


def test_a_stopped_download_is_handed_back(
    row: Checkpoint, repository: HubRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has arrived stays, and the next process goes on at once."""
    checkpoint_request_download(checkpoint=row)
    claimed = download_claim()
    assert claimed is not None

    def stop(done: int, total: int) -> None:
        if done > 150_000:
            downloads.downloads_stop()

    try:
        with pytest.raises(DownloadStoppedError):
            downloads.download_run(checkpoint=claimed, on_progress=stop)
        download_next()  # a stopping process takes nothing new
        row.refresh_from_db()
        assert (row.state, row.error_code) == (DiskState.ABSENT, "")
    finally:
        downloads._stopping.clear()
    download_next()
    row.refresh_from_db()
    assert row.state == DiskState.PRESENT


def test_the_queues_entry_point_takes_the_oldest_wish(row: Checkpoint, repository: HubRepository) -> None:
    """And states failures on the row instead of raising; without a wish it does nothing."""
    download_next()
    assert repository.hub.requests == []
    other = Checkpoint.objects.get(id="sd-2-1")
    checkpoint_request_download(checkpoint=row)
    checkpoint_request_download(checkpoint=other)
    download_next()
    row.refresh_from_db()
    assert row.state == DiskState.PRESENT
    download_next()
    other.refresh_from_db()
    assert (other.state, other.error_code) == (DiskState.BROKEN, "not_found")


@pytest.mark.slow
def test_a_check_finds_what_the_disk_has_changed(
    row: Checkpoint, repository: HubRepository, settings: Settings
) -> None:
    """A byte: broken, and moved aside. The folder: absent. Both are repaired by a download."""
    prefetch(row)
    row.refresh_from_db()
    check_files(row.pk)
    row.refresh_from_db()
    assert row.state == DiskState.PRESENT
    weights = checkpoint_folder(row) / UNET
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert checkpoint_complete(row)  # a look at sizes does not see it
    check_files(row.pk)
    row.refresh_from_db()
    assert (row.state, row.error_code) == (DiskState.BROKEN, "unusable")
    assert UNET in row.error_detail
    assert on_disk(row, settings) == set()
    assert prefetch(row)
    shutil.rmtree(checkpoint_folder(Checkpoint.objects.get(pk=row.pk)))
    check_files(row.pk)
    row.refresh_from_db()
    assert row.state == DiskState.ABSENT
    assert prefetch(row)


def test_a_truncated_file_on_disk_is_fetched_again(row: Checkpoint, repository: HubRepository) -> None:
    """Sizes are looked at each time; the files that are right stay."""
    prefetch(row)
    row.refresh_from_db()
    weights = checkpoint_folder(row) / UNET
    weights.write_bytes(weights.read_bytes()[:1000])
    repository.bytes_sent = 0
    assert prefetch(row)
    assert repository.bytes_sent == weights.stat().st_size


def test_a_checkpoint_that_cannot_be_loaded_is_quarantined(
    row: Checkpoint, repository: HubRepository, settings: Settings
) -> None:
    """Once; the built-in model never; and a request brings it anew."""
    prefetch(row)
    assert checkpoint_mark_broken(checkpoint_id=row.pk, detail="Its weights lack 3 tensors.")
    assert not checkpoint_mark_broken(checkpoint_id=row.pk, detail="again")
    assert not checkpoint_mark_broken(checkpoint_id="builtin", detail="never")
    row.refresh_from_db()
    assert (row.state, row.error_detail) == (DiskState.BROKEN, "Its weights lack 3 tensors.")
    assert on_disk(row, settings) == set()
    assert (Path(settings.MODEL_CACHE_DIR) / row.pk / ".quarantine" / UNET).is_file()
    assert checkpoint_request_download(checkpoint=row)
    download_next()
    row.refresh_from_db()
    assert row.state == DiskState.PRESENT


def test_the_built_in_model_is_always_there(hub_double: HubDouble, transactional_db: None) -> None:
    """It is made by the worker, and never asked of the Hub."""
    builtin = Checkpoint.objects.get(id="builtin")
    assert builtin.state == DiskState.PRESENT
    assert not checkpoint_prefetch(checkpoint=builtin)
    assert not checkpoint_request_download(checkpoint=builtin)
    check_files("builtin")
    builtin.refresh_from_db()
    assert builtin.state == DiskState.PRESENT
    assert hub_double.requests == []
