"""What goes and what stays: old generations, users' data, and files and rows that disagree."""

import os
import time
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.storage import default_storage
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django import Settings

from generation.attempts import generation_claim
from generation.choices import DeliveryStatus, Kind
from generation.models import GeneratedImage, Generation, IdempotencyKey, WebhookDelivery, WorkEntry, Worker
from generation.services import generation_cancel
from generation.upkeep.housekeeping import housekeeping
from generation.upkeep.pruning import generations_prune
from generation.upkeep.stored_files import storage_reconcile
from tests.support.endings import succeed
from tests.support.factories import GenerationMaker
from tests.support.pictures import encoded, gradient


def drawn(make: GenerationMaker, worker: Worker, **changes: Any) -> Generation:
    """A generation that succeeded, from a picture."""
    picture = encoded(gradient(256, 256))
    make(kind=Kind.IMG2IMG, strength=1.0, input_image=picture, **changes)
    generation = generation_claim(worker=worker)
    assert generation is not None
    assert succeed(generation)
    return generation


def files(settings: Settings) -> set[str]:
    """Everything that the storage holds."""
    root = Path(settings.MEDIA_ROOT)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def named() -> set[str]:
    """Everything that rows name."""
    rows = Generation.objects.values_list("input_image", "mask_image")
    return {name for row in rows for name in row if name} | set(
        GeneratedImage.objects.values_list("file", flat=True)
    )


def end_long_ago(generation: Generation, **age: float) -> None:
    """Makes it look as if it had ended then."""
    Generation.objects.filter(pk=generation.pk).update(finished_at=timezone.now() - timedelta(**age))


def run(*arguments: str) -> str:
    """What a command says."""
    said = StringIO()
    call_command(*arguments, stdout=said)
    return said.getvalue()


def test_old_generations_go_with_their_files(
    make: GenerationMaker,
    worker: Worker,
    settings: Settings,
    django_capture_on_commit_callbacks: Any,
) -> None:
    """What is younger, waits or runs stays, however old."""
    old, young = drawn(make, worker), drawn(make, worker)
    end_long_ago(old, days=31)
    end_long_ago(young, days=29)
    waiting = make()
    Generation.objects.filter(pk=waiting.pk).update(created_at=timezone.now() - timedelta(days=99))
    assert run("prune_generations", "--older-than", "30d", "--dry-run").startswith("1 generations (")
    assert len(files(settings)) == 4
    with django_capture_on_commit_callbacks(execute=True):
        assert "deleted." in run("prune_generations", "--older-than", "30d")
    assert set(Generation.objects.all()) == {young, waiting}
    assert files(settings) == named()
    assert len(named()) == 2


def test_only_one_users_generations_can_be_pruned(
    make: GenerationMaker, worker: Worker, stranger: User
) -> None:
    """By name."""
    mine, theirs = drawn(make, worker), drawn(make, worker, owner=stranger)
    assert generations_prune(older_than=timedelta(0), username="bob").generations == 1
    assert list(Generation.objects.all()) == [mine]
    assert not Generation.objects.filter(pk=theirs.pk).exists()


def test_only_a_user_that_there_is_can_be_pruned(make: GenerationMaker, worker: Worker) -> None:
    """A misspelt name is no success."""
    drawn(make, worker)
    with pytest.raises(CommandError, match="There is no user called 'nobody'"):
        run("prune_generations", "--older-than", "0m", "--user", "nobody")
    assert Generation.objects.exists()


@pytest.mark.parametrize("age", ["30", "d", "-1d", "1y", ""])
def test_an_age_has_a_unit(db: None, age: str) -> None:
    """Anything else is refused with an example."""
    with pytest.raises(CommandError, match="such as 12h"):
        run("prune_generations", f"--older-than={age}")


def test_a_deleted_users_data_goes_too(
    make: GenerationMaker,
    worker: Worker,
    owner: User,
    settings: Settings,
    django_capture_on_commit_callbacks: Any,
) -> None:
    """Rows, files, keys, work and messages."""
    drawn(make, worker)
    make(webhook_url="https://example.com", webhook_events=["canceled"])
    generation_cancel(generation=Generation.objects.get(status="queued"))
    IdempotencyKey.objects.create(owner=owner, key="k", fingerprint="f")
    assert files(settings)
    with django_capture_on_commit_callbacks(execute=True):
        owner.delete()
    assert files(settings) == set()
    for model in (Generation, GeneratedImage, IdempotencyKey, WorkEntry, WebhookDelivery):
        assert not model.objects.exists()


def orphan(settings: Settings, name: str, *, hours: float) -> None:
    """A file that no row names, as old as that."""
    path = Path(settings.MEDIA_ROOT) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"left over")
    then = time.time() - hours * 3600
    os.utime(path, (then, then))


def test_files_without_rows_are_found_once_they_are_old(
    make: GenerationMaker, worker: Worker, settings: Settings
) -> None:
    """Also beside a row's own files; those of a moment ago may yet get their row."""
    generation = drawn(make, worker)
    kept = named()
    folder = str(generation.images.get().file.name).rpartition("/")[0]
    inputs = generation.input_image.rpartition("/")[0]
    left = {f"{folder}/1-7.png", f"{inputs}/mask.png", "generations/2020/01/02/gone/1-0.png"}
    for name in left:
        orphan(settings, name, hours=2)
    orphan(settings, f"{folder}/2-0.png", hours=0.5)
    orphan(settings, "elsewhere/2020/01/02/x/a.png", hours=99)
    assert set(storage_reconcile(dry_run=True).files) == left
    recent = storage_reconcile(since=timezone.now() - timedelta(days=3))
    assert set(recent.files) == left - {"generations/2020/01/02/gone/1-0.png"}
    assert run("sweep") == "Swept.\n"
    assert "generations/2020/01/02/gone/1-0.png: no row names it, deleted" in run("sweep", "--files")
    assert files(settings) == kept | {f"{folder}/2-0.png", "elsewhere/2020/01/02/x/a.png"}


def test_a_dry_run_of_the_sweep_changes_nothing(
    make: GenerationMaker, worker: Worker, settings: Settings
) -> None:
    """Neither rows nor files; and it says what it is for where it would have nothing to say."""
    make()
    generation_claim(worker=worker)
    Generation.objects.update(lease_expires_at=timezone.now() - timedelta(minutes=1))
    left = "generations/2020/01/02/gone/1-0.png"
    orphan(settings, left, hours=2)
    with pytest.raises(CommandError, match="give both"):
        run("sweep", "--dry-run")
    assert "1 files and 0 rows would be deleted" in run("sweep", "--files", "--dry-run")
    assert Generation.objects.get().status == "running"
    assert left in files(settings)
    assert "1 generations taken back from lost workers.\n" in run("sweep")
    assert Generation.objects.get().status == "queued"


def test_rows_without_files_go_when_asked(make: GenerationMaker, worker: Worker) -> None:
    """By the command; the periodic pass only reports them. Input pictures' rows stay."""
    lost, whole = drawn(make, worker), drawn(make, worker)
    default_storage.delete(str(lost.images.get().file.name))
    default_storage.delete(whole.input_image)
    found = storage_reconcile()
    assert found.images == (lost.images.get().file.name,)
    assert found.inputs == (whole.input_image,)
    said = run("sweep", "--files")
    assert "0 files and 1 rows deleted; 1 input pictures missing." in said
    assert list(GeneratedImage.objects.all()) == [whole.images.get()]
    assert Generation.objects.count() == 2


def test_a_storage_that_is_away_empties_no_table(
    make: GenerationMaker, worker: Worker, settings: Settings, tmp_path: Path
) -> None:
    """Where nothing at all is found, the disk is rather not mounted."""
    drawn(make, worker)
    settings.MEDIA_ROOT = tmp_path / "not-mounted"
    storage_reconcile(rows_too=True)
    assert GeneratedImage.objects.count() == 1


def test_housekeeping_forgets_what_is_over(make: GenerationMaker, owner: User, settings: Settings) -> None:
    """Once in a while, whichever process comes first."""
    make(webhook_url="https://example.com", webhook_events=["canceled"])
    generation_cancel(generation=Generation.objects.get())
    long_ago = timezone.now() - timedelta(days=40)
    WebhookDelivery.objects.update(status=DeliveryStatus.DELIVERED, finished_at=long_ago)
    make()
    WorkEntry.objects.update(created_at=long_ago)
    IdempotencyKey.objects.create(owner=owner, key="k", fingerprint="f")
    IdempotencyKey.objects.update(created_at=long_ago)
    assert housekeeping()
    for model in (WorkEntry, IdempotencyKey, WebhookDelivery):
        assert not model.objects.exists()
    assert not housekeeping()
