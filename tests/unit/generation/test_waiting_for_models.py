"""Generations whose checkpoint is not on disk: they wait, hear how far it is, and run or end with a reason."""

from pathlib import Path
from typing import Any

import pytest
from django_redis import get_redis_connection
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings

from generation.attempts import attempt_fail, attempt_hand_back, generation_claim
from generation.choices import ErrorCode, Status
from generation.feed.stream import event_decode, stream_key
from generation.models import Generation, Worker
from generation.queue.entries import queue_length
from generation.queue.precedence import generation_next
from generation.services import generation_cancel, generation_retry
from generation.upkeep.sweep import downloads_request, entries_restore, sweep
from imagegen_project.common.queues import DOWNLOADS_QUEUE, entries_waiting
from models_registry.choices import DiskState, DownloadProblem
from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_folder
from models_registry.services import checkpoint_mark_broken, download_claim, download_fail, download_succeed
from models_registry.signals import checkpoint_progress
from tests.support.factories import GenerationMaker

pytestmark = pytest.mark.django_db


@pytest.fixture
def absent() -> Checkpoint:
    """A checkpoint that nobody has downloaded."""
    return Checkpoint.objects.get(id="sd-1-5")


@pytest.fixture
def waiting(
    make: GenerationMaker,
    absent: Checkpoint,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> Generation:
    """A generation that needs it."""
    with django_capture_on_commit_callbacks(execute=True):
        return make(checkpoint=absent)


def feed(generation: Generation) -> list[dict[str, Any]]:
    """The events of its feed."""
    entries = get_redis_connection("default").xrange(stream_key(generation.id))
    return [
        dict(event_decode(key.decode(), {name.decode(): value.decode() for name, value in fields.items()}))
        for key, fields in entries
    ]


def test_a_generation_asks_for_what_it_needs(waiting: Generation, absent: Checkpoint) -> None:
    """It stays queued; one download, however many wait."""
    absent.refresh_from_db()
    assert waiting.status == Status.QUEUED
    assert absent.download_requested_at is not None
    assert entries_waiting(DOWNLOADS_QUEUE) == 1


def test_a_present_checkpoint_is_not_asked_for(make: GenerationMaker) -> None:
    """The built-in one."""
    make()
    assert not Checkpoint.objects.filter(download_requested_at__isnull=False).exists()


def test_what_waits_for_files_is_not_claimed(
    waiting: Generation, make: GenerationMaker, worker: Worker
) -> None:
    """It neither blocks those behind it nor keeps workers busy with empty wake-ups."""
    get_redis_connection("default").flushdb()
    assert generation_next() is None
    assert entries_restore() == 0
    runnable = make()
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    assert claimed.id == runnable.id
    assert generation_claim(worker=worker) is None


def test_progress_reaches_every_feed_that_waits(
    waiting: Generation, absent: Checkpoint, make: GenerationMaker, worker: Worker
) -> None:
    """And no other."""
    second, other = make(checkpoint=absent), make()
    claimed = download_claim()
    assert claimed is not None
    claimed.size_bytes, claimed.downloaded_bytes = 1000, 250
    checkpoint_progress.send(sender=Checkpoint, checkpoint=claimed)
    for generation in (waiting, second):
        event = feed(generation)[-1]
        assert event["type"] == "downloading"
        assert (event["model"], event["percent"]) == ("sd-1-5", 25.0)
        assert (event["downloaded_bytes"], event["total_bytes"]) == (250, 1000)
    assert "downloading" not in {event["type"] for event in feed(other)}


def test_an_arrival_wakes_a_worker(
    waiting: Generation, worker: Worker, settings: Settings, tmp_path: Path
) -> None:
    """An entry each."""
    claimed = download_claim()
    assert claimed is not None
    settings.MODEL_CACHE_DIR = tmp_path
    claimed.revision = "a" * 40
    claimed.save()
    checkpoint_folder(claimed).mkdir(parents=True)
    get_redis_connection("default").flushdb()
    assert download_succeed(checkpoint=claimed, files={"model_index.json": {"size": 3, "sha256": "0"}})
    assert queue_length() == 1
    running = generation_claim(worker=worker)
    assert running is not None
    assert running.id == waiting.id


def test_a_failure_ends_what_waited(
    waiting: Generation,
    make: GenerationMaker,
    worker: Worker,
    caplog: pytest.LogCaptureFixture,
    django_capture_on_commit_callbacks: Any,
) -> None:
    """With the registry's sentence, on the row, in the feed and in the log; what was canceled stays canceled."""
    canceled, other = make(checkpoint=waiting.checkpoint), make()
    generation_cancel(generation=canceled)
    claimed = download_claim()
    assert claimed is not None
    caplog.set_level("INFO", "imagegen.generation")
    with django_capture_on_commit_callbacks(execute=True):
        assert download_fail(checkpoint=claimed, problem=DownloadProblem.NOT_FOUND, detail="It is not there.")
    for generation in (waiting, canceled, other):
        generation.refresh_from_db()
    assert (waiting.status, waiting.error_code) == (Status.FAILED, ErrorCode.MODEL_UNAVAILABLE)
    assert waiting.error_detail == "It is not there."
    assert feed(waiting)[-1]["type"] == "failed"
    assert feed(waiting)[-1]["error"] == {"code": "model_unavailable", "detail": "It is not there."}
    assert (canceled.status, other.status) == (Status.CANCELED, Status.QUEUED)
    assert [record.message for record in caplog.records if record.name == "imagegen.generation"] == [
        "generation ended"
    ]


def test_the_next_request_tries_a_broken_one_again(waiting: Generation, make: GenerationMaker) -> None:
    """A retry too."""
    claimed = download_claim()
    assert claimed is not None
    download_fail(checkpoint=claimed, problem=DownloadProblem.TIMEOUT, detail="It was silent.")
    waiting.refresh_from_db()
    retried = generation_retry(generation=waiting, owner=waiting.owner)
    assert retried.status == Status.QUEUED
    again = download_claim()
    assert again is not None
    assert (again.pk, again.download_attempt) == ("sd-1-5", 2)


def test_a_checkpoint_that_breaks_ends_what_waits_for_it(make: GenerationMaker, absent: Checkpoint) -> None:
    """As a worker finds out when it cannot load it."""
    Checkpoint.objects.filter(pk=absent.pk).update(state=DiskState.PRESENT, revision="a" * 40)
    absent.refresh_from_db()
    generation = make(checkpoint=absent)
    checkpoint_mark_broken(checkpoint_id=absent.pk, detail="Its weights lack 3 tensors.")
    generation.refresh_from_db()
    assert (generation.status, generation.error_detail) == (Status.FAILED, "Its weights lack 3 tensors.")


def test_the_sweep_asks_for_what_nobody_asked_for(
    make: GenerationMaker,
    absent: Checkpoint,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    """A generation that was stored while its checkpoint still looked present does not wait for ever."""
    absent.state = DiskState.PRESENT  # as that request had read it
    generation = make(checkpoint=absent)
    downloads_request()
    assert Checkpoint.objects.get(pk=absent.pk).download_requested_at is not None
    with django_capture_on_commit_callbacks(execute=True):
        sweep()
    assert entries_waiting(DOWNLOADS_QUEUE) == 1
    generation.refresh_from_db()
    assert generation.status == Status.QUEUED


def test_a_stale_worker_cannot_fail_what_is_queued_again(make: GenerationMaker, worker: Worker) -> None:
    """Only the end of a download fails a queued generation."""
    make()
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    attempt_hand_back(generation=claimed)
    assert not attempt_fail(generation=claimed, code=ErrorCode.ENGINE_ERROR, detail="late")
