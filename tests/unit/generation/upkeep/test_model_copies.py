"""Hosts that share no disk: each brings its own copy of what another has downloaded."""

import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from pytest_django import Settings

from generation.attempts import generation_claim
from generation.choices import CommandKind
from generation.gpu_worker.control import ControlThread
from generation.models import Generation, Worker, WorkerCommand
from generation.upkeep import model_copies as copies
from generation.upkeep.model_copies import copies_bring, copies_wanted
from generation.upkeep.sweep import sweep
from models_registry.choices import DiskState
from models_registry.downloads import copy_bring
from models_registry.errors import DownloadFailedError
from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_folder, checkpoint_is_here, checkpoints_here
from tests.support.factories import create_generation, make_worker
from tests.support.hub_repository import HubRepository
from tests.support.model_folders import prefetch
from tests.support.repositories import UNET, write_files

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def elsewhere(row: Checkpoint, repository: HubRepository, settings: Settings, tmp_path: Path) -> Checkpoint:
    """A checkpoint that another host has downloaded; this one has an empty disk."""
    prefetch(row)
    settings.MODEL_CACHE_DIR = tmp_path / "another disk"
    row.refresh_from_db()
    return row


def queue(checkpoint: Checkpoint, *, waited: timedelta = timedelta(minutes=1)) -> Generation:
    """A generation that has waited for a while."""
    generation = create_generation(
        owner=User.objects.get_or_create(username="ada")[0],
        checkpoint=checkpoint,
        width=512,
        height=512,
    )
    Generation.objects.filter(pk=generation.pk).update(created_at=timezone.now() - waited)
    return generation


def test_a_copy_has_the_bytes_of_the_first(elsewhere: Checkpoint, repository: HubRepository) -> None:
    """The files that the row names, and its state is what it was."""
    assert not checkpoint_is_here(elsewhere)
    copy_bring(checkpoint=elsewhere)
    folder = checkpoint_folder(elsewhere)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == set(elsewhere.files)
    assert all(
        (folder / path).read_bytes() == (repository.folder / path).read_bytes() for path in elsewhere.files
    )
    assert checkpoint_is_here(elsewhere)
    asked = len(repository.hub.requests)
    copy_bring(checkpoint=elsewhere)
    assert len(repository.hub.requests) == asked, "nothing is to be done twice"
    elsewhere.refresh_from_db()
    assert elsewhere.state == DiskState.PRESENT


def test_a_worker_claims_only_what_its_host_has(elsewhere: Checkpoint) -> None:
    """And takes what it has meanwhile."""
    worker = make_worker("w1")
    waiting = queue(elsewhere)
    builtin = Checkpoint.objects.get(id="builtin")
    assert generation_claim(worker=worker) is None
    drawable = queue(builtin)
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    assert claimed.pk == drawable.pk
    copies_bring()
    assert set(checkpoints_here()) == {"builtin", elsewhere.pk}
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    assert claimed.pk == waiting.pk


def test_only_what_has_waited_is_brought(elsewhere: Checkpoint) -> None:
    """A worker that has the files may be free in a moment."""
    assert copies_wanted() == []
    generation = queue(elsewhere, waited=timedelta())
    assert copies_wanted() == []
    Generation.objects.filter(pk=generation.pk).update(created_at=timezone.now() - 2 * copies.PATIENCE)
    assert copies_wanted() == [elsewhere]


def test_a_load_waits_for_the_copy(elsewhere: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a worker of this host; another host's task worker sees to its own."""
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    worker = make_worker("w1")
    Worker.objects.update(hostname="there")
    command = WorkerCommand.objects.create(worker=worker, kind=CommandKind.LOAD, checkpoint=elsewhere)
    submitted: list[WorkerCommand] = []

    class Runtime:
        """Of a worker without an engine."""

        def __init__(self) -> None:
            self.worker = worker
            self.command_submit = submitted.append

    control = ControlThread(Runtime())  # type: ignore[arg-type]
    assert copies_wanted() == []
    Worker.objects.update(hostname="here")
    assert copies_wanted() == [elsewhere]
    control._take_commands()
    assert submitted == []
    copies_bring()
    control._take_commands()
    assert submitted == [command]


def test_bytes_that_have_changed_are_refused(elsewhere: Checkpoint, repository: HubRepository) -> None:
    """A commit says what is in it; whoever answers for the Hub may not."""
    entry = elsewhere.files[UNET]
    entry["sha256"] = "0" * 64
    with pytest.raises(DownloadFailedError, match="another host"):
        copy_bring(checkpoint=elsewhere)
    assert not checkpoint_is_here(elsewhere)


def test_what_nobody_has_any_more_is_absent(elsewhere: Checkpoint, repository: HubRepository) -> None:
    """Those who wait hear why it cannot be had; as long as some worker has it, they wait for that one."""
    queue(elsewhere)
    write_files(repository.folder, {"unet/config.json": b'{"new": true}'})  # the pinned commit is gone
    holder = make_worker("w1", models_on_disk=[elsewhere.pk])
    copies_bring()
    elsewhere.refresh_from_db()
    assert elsewhere.state == DiskState.PRESENT
    holder.delete()
    copies_bring()
    elsewhere.refresh_from_db()
    assert elsewhere.state == DiskState.ABSENT
    sweep()
    elsewhere.refresh_from_db()
    assert elsewhere.download_requested_at is not None


def test_what_an_interrupted_copy_left_is_used(elsewhere: Checkpoint, repository: HubRepository) -> None:
    """File by file."""
    copy_bring(checkpoint=elsewhere)
    folder = checkpoint_folder(elsewhere)
    folder.rename(folder.with_name(f".staging-{elsewhere.revision}"))
    shutil.copytree(folder.with_name(f".staging-{elsewhere.revision}"), folder.parent / "before")
    asked = [path for path in repository.hub.requests if "resolve" in str(path)]
    copy_bring(checkpoint=elsewhere)
    assert [path for path in repository.hub.requests if "resolve" in str(path)] == asked
    assert not (folder.parent / "before").exists(), "and nothing else stays"
