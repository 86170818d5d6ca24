"""A storage that is full, read-only, away, or loses power: on real disks."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.test import Client
from pytest_django import Settings
from rest_framework.test import APIClient

from generation.attempts import generation_claim
from generation.errors import StorageUnavailableError
from generation.models import Generation, Worker
from generation.pictures import availability
from generation.pictures.availability import StorageState, storage_state
from tests.support.disks import Disk
from tests.support.endings import drawn_picture, succeed
from tests.support.factories import GenerationMaker
from tests.support.pictures import WITH_MASK, WITH_PICTURE

BASE = "/api/v1/generations"


@pytest.mark.parametrize("body", [WITH_PICTURE, WITH_MASK], ids=["picture", "picture and mask"])
def test_an_input_picture_that_finds_no_room_is_refused(
    api: APIClient, disk: Disk, body: dict[str, Any]
) -> None:
    """With a status of its own, nothing written; and the same request is taken once there is room."""
    disk.fill()
    refused = api.post(BASE, body)
    assert (refused.status_code, refused.json()["code"]) == (507, "storage_unavailable")
    assert "full" in refused.json()["detail"]
    assert (Generation.objects.count(), disk.files()) == (0, [])
    disk.make_room()
    assert api.post(BASE, body).status_code == 202


def test_of_two_pictures_of_which_one_fits_neither_stays(
    make: GenerationMaker, worker: Worker, disk: Disk
) -> None:
    """No file without its others, none without its row, no part of one."""
    make(num_images=2)
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    large = drawn_picture().data + bytes(3 << 20)
    images = [drawn_picture(), drawn_picture()]
    images = [
        type(image)(**vars(image) | {"data": large, "index": index}) for index, image in enumerate(images)
    ]
    with pytest.raises(StorageUnavailableError, match="full"):
        succeed(claimed, images=images)
    claimed.refresh_from_db()
    assert (claimed.status, disk.files()) == ("running", [])


@pytest.mark.django_db(transaction=True)
def test_a_deletion_on_a_read_only_disk_answers_and_is_done(
    api: APIClient, make: GenerationMaker, worker: Worker, disk: Disk
) -> None:
    """The row is gone, which is what was asked; the file waits for the orphan sweep."""
    generation = make()
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    assert succeed(claimed)
    disk.read_only()
    try:
        api.raise_request_exception = False
        assert api.delete(f"{BASE}/{generation.pk}").status_code == 204
        assert not Generation.objects.exists()
        assert len(disk.files()) == 1
    finally:
        disk.read_only(on=False)


def test_a_read_only_disk_gives_its_pictures_and_takes_none(
    api: APIClient, make: GenerationMaker, worker: Worker, disk: Disk
) -> None:
    """What is there can be looked at; what would be written is refused."""
    generation = make()
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    assert succeed(claimed)
    disk.read_only()
    try:
        assert api.get(f"{BASE}/{generation.pk}/images/0").content == drawn_picture().data
        refused = api.post(BASE, WITH_PICTURE)
        assert (refused.status_code, refused.json()["code"]) == (507, "storage_unavailable")
        assert "read-only" in refused.json()["detail"]
    finally:
        disk.read_only(on=False)


def test_readiness_says_what_the_storage_is(db: None, disk: Disk) -> None:
    """It goes on serving: what it holds can be seen and deleted, and what is asked for waits."""

    def seen() -> tuple[int, str, str]:
        answer = Client().get("/health/ready")
        body = answer.json()
        return answer.status_code, body["status"], body["checks"]["storage"]

    assert seen() == (200, "ready", "ok")
    disk.fill()
    assert seen() == (200, "degraded", "full")
    disk.make_room()
    assert seen() == (200, "ready", "ok")
    disk.read_only()
    try:
        assert seen() == (200, "degraded", "read_only")
    finally:
        disk.read_only(on=False)
    assert disk.files() == []


def test_a_refused_write_is_known_at_once(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only at the next look."""
    monkeypatch.setattr(availability, "LOOK_EVERY_S", 3600.0)
    assert storage_state() is StorageState.OK
    availability.storage_refused(OSError(28, "No space left on device"))
    assert storage_state() is StorageState.FULL


def test_a_file_outlasts_a_power_cut_once_it_is_stored(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are synced before it gets its name, and every folder that got something new after that."""
    settings.MEDIA_ROOT = tmp_path
    happened: list[tuple[str, str]] = []
    sync, replace = os.fsync, Path.replace

    def noted_sync(descriptor: int) -> None:
        happened.append(("synced", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        sync(descriptor)

    def noted_replace(self: Path, target: Path) -> Path:
        happened.append(("named", str(target)))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    data = b"picture" * 1000
    name = default_storage.save("generations/2026/01/02/one/1-0.png", ContentFile(data))
    folder = tmp_path / "generations/2026/01/02/one"
    assert happened[:2] == [("synced", f"{folder}/1-0.png.part"), ("named", f"{folder}/1-0.png")]
    above = [folder, *(parent for parent in folder.parents if parent.is_relative_to(tmp_path))]
    assert {path for what, path in happened[2:] if what == "synced"} == {str(path) for path in above}
    with default_storage.open(name) as file:
        assert hashlib.sha256(file.read()).digest() == hashlib.sha256(data).digest()
    happened.clear()
    assert (
        default_storage.save(name, ContentFile(b"again")) == name
    ), "a second try takes the place of the first"
    assert [path for what, path in happened if what == "synced"] == [f"{folder}/1-0.png.part", str(folder)]
