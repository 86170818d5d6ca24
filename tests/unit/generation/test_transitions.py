"""The life of a generation: guarded moves, fencing, leases, and the rules that the database repeats."""

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.files.storage import default_storage
from django.db import IntegrityError, close_old_connections, transaction
from django.db.models.functions import Now
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from generation import services
from generation.attempts import (
    attempt_cancel,
    attempt_fail,
    attempt_hand_back,
    generation_claim,
)
from generation.choices import ALLOWED_FROM, TERMINAL, ErrorCode, Kind, ReplayVerdict, Status
from generation.errors import GenerationActiveError, GenerationEndedError, NoReceiptError
from generation.gpu_worker.batch import batch_of
from generation.metrics.counters import JOBS_ENDED
from generation.models import MAX_SEED, Generation, Worker
from generation.pictures.files import image_read
from generation.queue.entries import queue_length, workers_wake
from generation.services import generation_cancel, generation_delete, generation_replay, generation_retry
from generation.transitions import generation_move
from generation.upkeep.sweep import SURPLUS_ENTRIES, entries_restore, leases_take_back, sweep
from imagegen_project.common.counters import shared_families
from imagegen_project.common.queues import GENERATIONS_QUEUE, queue_get
from tests.support.endings import attempt_renew, succeed
from tests.support.factories import GenerationMaker, make_worker

NOW = datetime(2026, 11, 26, tzinfo=UTC)


def claimed(worker: Worker) -> Generation:
    """The next generation, claimed."""
    generation = generation_claim(worker=worker)
    assert generation is not None
    return generation


def expire(generation: Generation) -> None:
    """Lets the lease run out."""
    Generation.objects.filter(pk=generation.pk).update(lease_expires_at=Now() - timedelta(seconds=1))


def test_a_claim_starts_an_attempt_under_a_lease(make: GenerationMaker, worker: Worker) -> None:
    """The claimed row says who runs it, since when and until when."""
    made = make()
    generation = claimed(worker)
    assert generation.id == made.id
    assert (generation.status, generation.attempt, generation.worker_id) == (Status.RUNNING, 1, worker.id)
    assert generation.lease_expires_at is not None
    assert generation.lease_expires_at > timezone.now()
    assert generation.queue_ms is not None
    assert generation_claim(worker=worker) is None


def test_claim_and_end_ask_little_of_the_database(
    make: GenerationMaker, worker: Worker, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    """A solo picture waits for each of these, and the rows come back as they are without being read once more."""
    make()
    generation_claim(worker=worker)  # notes the first turn
    make()
    with django_assert_num_queries(
        7
    ):  # both ends of the transaction, here; models, row, turn, move, what it is now
        generation = claimed(worker)
        assert (generation.owner.username, generation.checkpoint.id) == ("ada", "builtin")
        assert generation.worker == worker
    with django_assert_num_queries(5):  # ended before, move, pictures, what it is now, class of its owner
        assert succeed(generation)
        assert (generation.owner.username, generation.status) == ("ada", Status.SUCCEEDED)
    assert generation.finished_at is not None


def test_the_oldest_is_claimed_first(make: GenerationMaker, worker: Worker) -> None:
    """First come, first served."""
    ids = [make().id for _ in range(3)]
    assert [claimed(worker).id for _ in range(3)] == ids


@pytest.mark.parametrize("to", list(Status))
@pytest.mark.parametrize("origin", list(Status))
def test_only_allowed_moves_happen(make: GenerationMaker, worker: Worker, origin: Status, to: Status) -> None:
    """From each status to each: the move happens exactly where the table allows it."""
    generation = make()
    force_status(generation, origin, worker)
    values: dict[str, Any] = {}
    if to is Status.RUNNING:
        values = {"lease_expires_at": Now() + timedelta(seconds=9), "attempt": 1}
    if to is Status.FAILED:
        values = {"error_code": ErrorCode.TIMEOUT}
    if to is Status.SUCCEEDED:
        values = {"receipt": {}}
    moved = generation_move(generation=generation, to=to, **values)
    assert moved is (origin in ALLOWED_FROM[to])
    generation.refresh_from_db()
    assert generation.status == (to if moved else origin)


def force_status(generation: Generation, status: Status, worker: Worker) -> None:
    """Puts a row into a status, past the rules of the services but not past the database's."""
    running = status is Status.RUNNING
    Generation.objects.filter(pk=generation.pk).update(
        status=status,
        attempt=1,
        lease_expires_at=timezone.now() + timedelta(seconds=9) if running else None,
        finished_at=timezone.now() if status in TERMINAL else None,
        error_code=ErrorCode.TIMEOUT if status is Status.FAILED else "",
        receipt={} if status is Status.SUCCEEDED else None,
    )


@pytest.mark.parametrize(
    "values",
    [
        {"status": Status.SUCCEEDED},
        {"status": Status.RUNNING},
        {"status": Status.FAILED, "finished_at": NOW},
        {"error_code": ErrorCode.TIMEOUT},
        {"finished_at": NOW},
        {"lease_expires_at": NOW},
        {"seed": -1},
        {"seed": MAX_SEED + 1},
        {"num_inference_steps": 0},
        {"guidance_scale": 20.5},
        {"num_images": 11},
        {"step": 5},
        {"kind": Kind.IMG2IMG},
        {"kind": Kind.IMG2IMG, "strength": 0.5},
        {"kind": Kind.IMG2IMG, "strength": 0, "input_image": "a.png"},
        {"kind": Kind.IMG2IMG, "strength": 0.5, "input_image": "a.png", "mask_image": "b.png"},
        {"kind": Kind.INPAINT, "strength": 0.5, "input_image": "a.png"},
        {"kind": Kind.INPAINT, "strength": 1.1, "input_image": "a.png", "mask_image": "b.png"},
        {"strength": 0.5},
        {"input_image": "a.png"},
    ],
    ids=str,
)
def test_the_database_refuses_broken_rows(make: GenerationMaker, values: dict[str, Any]) -> None:
    """Even a write that passes the services by cannot break the rules."""
    generation = make()
    with pytest.raises(IntegrityError), transaction.atomic():
        Generation.objects.filter(pk=generation.pk).update(**values)


def test_success_stores_the_picture_and_ends_the_job(make: GenerationMaker, worker: Worker) -> None:
    """Row, picture and file agree."""
    make()
    generation = claimed(worker)
    assert succeed(generation)
    generation.refresh_from_db()
    image = generation.images.get()
    assert (generation.status, generation.step, generation.lease_expires_at) == (Status.SUCCEEDED, 4, None)
    assert image_read(image).startswith(b"\x89PNG")
    assert image.size_bytes == len(image_read(image))


def test_a_stale_attempt_changes_nothing_and_leaves_no_file(
    make: GenerationMaker, worker: Worker, django_capture_on_commit_callbacks: Any
) -> None:
    """A worker that lost its lease can neither end the job nor leave a picture behind."""
    make()
    stale = claimed(worker)
    expire(stale)
    leases_take_back()
    fresh = claimed(worker)
    assert fresh.attempt == 2
    assert not succeed(stale)
    assert not attempt_fail(generation=stale, code=ErrorCode.ENGINE_ERROR, detail="late")
    assert not attempt_cancel(generation=stale)
    assert not attempt_hand_back(generation=stale)
    assert not attempt_renew(generation_id=stale.id, attempt=stale.attempt, step=1).held
    assert succeed(fresh)
    assert fresh.images.count() == 1
    folder = str(fresh.images.get().file.name).rpartition("/")[0]
    assert default_storage.listdir(folder)[1] == ["2-0.png"]


def test_an_expired_lease_returns_the_job_with_its_seed(make: GenerationMaker, worker: Worker) -> None:
    """The next attempt draws the same picture."""
    made = make(seed=-1)
    expire(claimed(worker))
    assert leases_take_back() == [made.id]
    again = claimed(worker)
    assert (again.seed, again.attempt) == (made.seed, 2)
    assert leases_take_back() == []


def test_a_job_that_keeps_killing_workers_is_given_up(
    make: GenerationMaker, worker: Worker, settings: Settings
) -> None:
    """After MAX_ATTEMPTS it fails with worker_lost."""
    settings.MAX_ATTEMPTS = 2
    generation = make()
    for _ in range(2):
        expire(claimed(worker))
        leases_take_back()
    generation.refresh_from_db()
    assert (generation.status, generation.error_code) == (Status.FAILED, ErrorCode.WORKER_LOST)


def test_a_canceled_job_whose_worker_died_ends_canceled(make: GenerationMaker, worker: Worker) -> None:
    """It does not run again."""
    generation = make()
    expire(claimed(worker))
    generation_cancel(generation=generation)
    leases_take_back()
    generation.refresh_from_db()
    assert generation.status == Status.CANCELED


def test_a_queued_job_is_canceled_at_once(make: GenerationMaker, worker: Worker) -> None:
    """And nobody claims it."""
    assert generation_cancel(generation=make()).status == Status.CANCELED
    assert generation_claim(worker=worker) is None


def test_a_running_job_hears_of_its_cancel(make: GenerationMaker, worker: Worker) -> None:
    """Through its lease; the worker then ends it."""
    make()
    generation = claimed(worker)
    assert generation_cancel(generation=generation).status == Status.RUNNING
    assert attempt_renew(generation_id=generation.id, attempt=1, step=2).cancel_requested
    assert attempt_cancel(generation=generation)
    with pytest.raises(GenerationEndedError):
        generation_cancel(generation=generation)


def test_a_handed_back_job_is_claimed_again(make: GenerationMaker, worker: Worker) -> None:
    """Under a new attempt."""
    make()
    assert attempt_hand_back(generation=claimed(worker))
    assert claimed(worker).attempt == 2


def test_a_handed_back_job_that_somebody_canceled_ends(make: GenerationMaker, worker: Worker) -> None:
    """Rather than wait for a worker that would end it at once."""
    make()
    generation = claimed(worker)
    generation_cancel(generation=generation)
    assert attempt_hand_back(generation=generation) == Status.CANCELED
    generation.refresh_from_db()
    assert (generation.status, generation.attempt) == (Status.CANCELED, 1)


def test_seed_minus_one_is_resolved_at_creation(make: GenerationMaker) -> None:
    """A recorded random seed, another each time."""
    seeds = {make(seed=-1).seed for _ in range(5)}
    assert len(seeds) == 5
    assert all(0 <= seed <= MAX_SEED for seed in seeds)


def test_a_retry_is_a_new_linked_job_with_the_same_request(make: GenerationMaker, worker: Worker) -> None:
    """Only of a job that has ended."""
    original = make(seed=-1, negative_prompt="blue")
    with pytest.raises(GenerationActiveError):
        generation_retry(generation=original, owner=original.owner)
    generation_cancel(generation=original)
    retry = generation_retry(generation=original, owner=original.owner)
    assert (retry.retry_of_id, retry.status, retry.attempt) == (original.id, Status.QUEUED, 0)
    assert (retry.seed, retry.prompt, retry.negative_prompt) == (original.seed, original.prompt, "blue")


@pytest.mark.parametrize(
    ("colour", "verdict", "difference", "match"),
    [
        ("red", ReplayVerdict.EXACT, 0, True),
        ("#fd0002", ReplayVerdict.CLOSE, 2, None),
        ("blue", ReplayVerdict.DIFFERENT, 255, False),
    ],
)
def test_a_replay_says_how_close_it_came(
    make: GenerationMaker,
    worker: Worker,
    colour: str,
    verdict: ReplayVerdict,
    difference: int,
    match: bool | None,  # noqa: FBT001
) -> None:
    """By the pixels, not by the files; what is only close is not called a mismatch."""
    original = make()
    with pytest.raises(NoReceiptError):
        generation_replay(generation=original, owner=original.owner)
    succeed(claimed(worker))
    original.refresh_from_db()
    replay = generation_replay(generation=original, owner=original.owner)
    assert replay.reproducible
    succeed(claimed(worker), colour=colour)
    replay.refresh_from_db()
    assert (replay.replay_of_id, replay.pixels_match) == (original.id, match)
    assert (replay.replay_verdict, replay.replay_difference) == (verdict, difference)
    original.refresh_from_db()
    assert (original.pixels_match, original.replay_verdict) == (None, "")


def test_a_replay_of_a_lost_picture_has_no_verdict(make: GenerationMaker, worker: Worker) -> None:
    """There is nothing to compare other pixels with."""
    original = make()
    succeed(claimed(worker))
    original.refresh_from_db()
    replay = generation_replay(generation=original, owner=original.owner)
    default_storage.delete(str(original.images.get().file.name))
    succeed(claimed(worker), colour="blue")
    replay.refresh_from_db()
    assert (replay.status, replay.replay_verdict, replay.pixels_match) == (Status.SUCCEEDED, "", None)


def test_a_replay_runs_in_the_number_format_of_its_original(make: GenerationMaker, worker: Worker) -> None:
    """Whatever its model's row asks for now."""
    original = make()
    succeed(claimed(worker), receipt={"environment": {"dtype": "float32"}})
    original.refresh_from_db()
    generation_replay(generation=original, owner=original.owner)
    assert batch_of(claimed(worker)).model.dtype == "float32"
    assert batch_of(original).model.dtype == original.checkpoint.dtype == "auto"


def test_deleting_takes_the_files_along(
    make: GenerationMaker, worker: Worker, django_capture_on_commit_callbacks: Any
) -> None:
    """Rows and storage agree afterwards."""
    make()
    generation = claimed(worker)
    succeed(generation)
    name = str(generation.images.get().file.name)
    assert default_storage.exists(name)
    with django_capture_on_commit_callbacks(execute=True):
        generation_delete(generation=generation)
    assert not default_storage.exists(name)
    assert not Generation.objects.exists()


def test_deleting_a_running_job_fences_its_worker(make: GenerationMaker, worker: Worker) -> None:
    """The worker finds its lease gone and stores nothing."""
    make()
    generation = claimed(worker)
    generation_delete(generation=Generation.objects.get(pk=generation.pk))
    assert not attempt_renew(generation_id=generation.id, attempt=1, step=1).held
    assert not succeed(generation)


def test_the_sweep_restores_missing_entries(make: GenerationMaker) -> None:
    """At least one RQ entry a queued row, and no heap of them however often it runs."""
    for _ in range(3):
        make()
    assert queue_length() == 0  # the test's transaction never commits, so nothing was pushed
    assert entries_restore() == 3
    for _ in range(3):
        sweep()
    assert queue_length() == 3


def test_the_sweep_drops_a_heap_of_entries(make: GenerationMaker) -> None:
    """What canceled jobs left while no worker lived; the rows keep theirs, and the oldest stay."""
    for _ in range(2):
        make()
    workers_wake(device_class="", entries=SURPLUS_ENTRIES + 2)
    oldest = queue_get(GENERATIONS_QUEUE).get_job_ids()[:2]
    assert entries_restore() == 0
    assert queue_length() == SURPLUS_ENTRIES + 2, "these may be on their way to rows"
    workers_wake(device_class="", entries=50)
    assert entries_restore() == 0
    assert queue_length() == SURPLUS_ENTRIES + 2
    assert queue_get(GENERATIONS_QUEUE).get_job_ids()[:2] == oldest


def test_creation_pushes_one_entry_once_committed(
    make: GenerationMaker, django_capture_on_commit_callbacks: Any
) -> None:
    """Never before: a worker must find the row."""
    with django_capture_on_commit_callbacks(execute=True):
        make()
        assert queue_length() == 0
    assert queue_length() == 1


@pytest.mark.django_db(transaction=True)
def test_a_job_is_claimed_once_however_many_try(make: GenerationMaker) -> None:
    """16 claims race for 5 jobs: each job goes to exactly one."""
    made = {make().id for _ in range(5)}
    workers = [make_worker(f"worker-{number}") for number in range(16)]

    def claim(worker: Worker) -> Any:
        try:
            generation = generation_claim(worker=worker)
            return generation.id if generation else None
        finally:
            close_old_connections()

    with ThreadPoolExecutor(8) as pool:
        results = [result for result in pool.map(claim, workers) if result]
    assert sorted(results) == sorted(made)


def ends_told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The status in each line of the log about an ended generation."""
    return [vars(record)["status"] for record in caplog.records if record.name == "imagegen.generation"]


def ends_counted() -> float:
    """How many ends the counters know."""
    (family,) = shared_families([JOBS_ENDED])
    return sum(sample.value for sample in family.samples if sample.name.endswith("_total"))


@pytest.mark.parametrize("end", [generation_cancel, generation_delete])
def test_a_queued_job_that_a_client_ends_is_told_and_counted_once(
    make: GenerationMaker,
    caplog: pytest.LogCaptureFixture,
    django_capture_on_commit_callbacks: Any,
    end: Any,
) -> None:
    """Like any other end: one line in the log, one count."""
    generation = make()
    caplog.set_level(logging.INFO, logger="imagegen.generation")
    with django_capture_on_commit_callbacks(execute=True):
        end(generation=generation)
    assert ends_told(caplog) == ["canceled"]
    assert ends_counted() == 1


def test_a_job_that_ends_while_it_is_being_canceled_is_counted_once(
    make: GenerationMaker, worker: Worker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whoever ended it: the cancel only left word."""
    make()
    running = claimed(worker)
    seen = Generation.objects.get(pk=running.pk)
    caplog.set_level(logging.INFO, logger="imagegen.generation")
    ask = services._cancel_ask

    def ask_and_let_it_end(generation: Generation) -> bool:
        asked = ask(generation)
        assert succeed(running)
        return asked

    monkeypatch.setattr(services, "_cancel_ask", ask_and_let_it_end)
    assert generation_cancel(generation=seen).status == Status.SUCCEEDED
    assert ends_told(caplog) == ["succeeded"]
    assert ends_counted() == 1
