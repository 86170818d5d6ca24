"""Files that are not what their rows say."""

from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings as configured
from rest_framework.test import APIClient

from generation.attempts import generation_claim
from generation.models import GeneratedImage, Generation, Worker
from generation.upkeep import housekeeping as keeping
from generation.upkeep.stored_files import CHECKED, pictures_check
from imagegen_project.common.storage import UNFINISHED_SUFFIX
from tests.support.disks import Disk
from tests.support.endings import drawn_picture, succeed
from tests.support.factories import GenerationMaker


def drawn(make: GenerationMaker, worker: Worker) -> tuple[Generation, GeneratedImage, Path]:
    """A finished generation, its picture and that one's file."""
    make()
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    assert succeed(claimed)
    image = claimed.images.get()
    return claimed, image, Path(configured.MEDIA_ROOT) / str(image.file.name)


def test_what_a_power_cut_damaged_is_reported_at_the_next_start(
    make: GenerationMaker, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    """Emptied, filled with zeros or gone: those of the minutes before the newest, whenever that was."""
    assert pictures_check() == ()
    (_, old, old_file), *broken, (_, whole, _) = [drawn(make, worker) for _ in range(5)]
    old_file.write_bytes(b"")
    GeneratedImage.objects.filter(pk=old.pk).update(created_at=whole.created_at - 2 * CHECKED)
    GeneratedImage.objects.exclude(pk=old.pk).update(created_at=whole.created_at - timedelta(days=9))
    broken[0][2].write_bytes(b"")
    broken[1][2].write_bytes(bytes(broken[1][1].size_bytes))
    broken[2][2].unlink()
    GeneratedImage.objects.filter(pk=old.pk).update(created_at=whole.created_at - timedelta(days=10))
    assert set(pictures_check()) == {str(image.file.name) for _, image, _ in broken}
    assert "pictures damaged" in caplog.text


def test_a_picture_that_lost_a_part_is_not_served(
    api: APIClient, make: GenerationMaker, worker: Worker
) -> None:
    """It is said to be lost, not handed out as if it were one."""
    generation, _, file = drawn(make, worker)
    file.write_bytes(drawn_picture().data[:-1])
    answer = api.get(f"/api/v1/generations/{generation.id}/images/0")
    assert (answer.status_code, answer.json()["code"]) == (404, "image_not_found")
    assert "replay" in answer.json()["detail"]


def test_a_storage_that_cannot_be_listed_keeps_no_house_from_being_kept(
    db: None, disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest is done; the files' turn comes again."""
    monkeypatch.setattr(keeping, "HOUSEKEEPING_EVERY_S", 1)
    (disk.folder / "generations").write_text("not a folder")
    assert keeping.housekeeping()
    assert "files and rows not compared" in caplog.text


def test_what_a_killed_process_was_writing_is_an_orphan(
    make: GenerationMaker, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the sweep of files, as any other."""
    _, image, file = drawn(make, worker)
    file.with_name(file.name + UNFINISHED_SUFFIX).write_bytes(b"half")
    monkeypatch.setattr("generation.upkeep.stored_files.ORPHAN_AGE", timedelta(hours=-1))
    found = keeping.storage_reconcile()
    assert found.files == (f"{image.file.name}{UNFINISHED_SUFFIX}",)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
