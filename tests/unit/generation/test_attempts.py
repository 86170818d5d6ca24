"""What is kept of attempts that did not end a generation, claims of mates, and leases."""

from datetime import timedelta
from pathlib import Path

from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from generation.attempts import (
    LEFT_TO_THE_IDLE,
    RESIDENT_FIRST,
    WORTH_WAITING_S,
    Lease,
    Progress,
    attempt_hand_back,
    attempts_renew,
    generation_claim,
    mates_claim,
)
from generation.choices import Phase, Status, WorkerStatus
from generation.models import Generation, Worker
from generation.upkeep.sweep import leases_take_back
from tests.support.factories import GenerationMaker, checkpoint_fetch, make_worker


def expire(**changes: object) -> None:
    """Lets every lease run out."""
    running = Generation.objects.filter(status="running")
    running.update(lease_expires_at=timezone.now() - timedelta(seconds=1), **changes)
    leases_take_back()


def test_every_lost_attempt_leaves_a_reason(make: GenerationMaker, worker: Worker, api: APIClient) -> None:
    """Until it is quarantined, with all of them on its row."""
    job = make()
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    attempt_hand_back(generation=claimed)
    for _ in range(2):
        generation_claim(worker=worker)
        expire()
    body = api.get(f"/api/v1/generations/{job.id}").json()
    assert (body["status"], body["error"]["code"]) == ("failed", "worker_lost")
    log = [(entry["attempt"], entry["worker"], entry["reason"]) for entry in body["attempt_log"]]
    assert log == [
        (1, "worker-1", "handed_back"),
        (2, "worker-1", "worker_lost"),
        (3, "worker-1", "worker_lost"),
    ]


def test_a_lost_attempt_beyond_its_time_is_not_tried_again(make: GenerationMaker, worker: Worker) -> None:
    """A step that hangs would hang again."""
    job = make(timeout_s=5)
    generation_claim(worker=worker)
    expire(started_at=timezone.now() - timedelta(seconds=6))
    job.refresh_from_db()
    assert (job.status, job.error_code, job.attempt) == ("failed", "timeout", 1)


def test_mates_are_claimed_in_order_and_within_the_room(make: GenerationMaker, worker: Worker) -> None:
    """What can be drawn with the one that runs, up to so many pictures; each is an attempt under a lease."""
    first = make()
    mates = [make(seed=1), make(seed=2, scheduler="ddim", num_inference_steps=7), make(seed=3, num_images=2)]
    make(width=512)
    make(reproducible=True)
    claimed = generation_claim(worker=worker)
    assert claimed == first
    found = mates_claim(worker=worker, of=first, pictures=3)
    assert found == mates[:2], "two pictures of the third would be one too many"
    assert {(mate.status, mate.attempt, mate.worker) for mate in found} == {(Status.RUNNING, 1, worker)}
    assert mates_claim(worker=worker, of=first, pictures=3) == mates[2:]
    assert mates_claim(worker=worker, of=first, pictures=3) == []


def test_nobody_joins_past_one_who_has_waited_for_long(make: GenerationMaker, worker: Worker) -> None:
    """Or past a higher priority; a short while they do."""
    first = make()
    generation_claim(worker=worker)
    other = make(width=512)
    mate = make(seed=1)
    Generation.objects.filter(pk=other.pk).update(created_at=timezone.now() - RESIDENT_FIRST)
    assert mates_claim(worker=worker, of=first, pictures=8) is None
    Generation.objects.filter(pk=other.pk).update(created_at=timezone.now(), priority=1)
    assert mates_claim(worker=worker, of=first, pictures=8) is None
    Generation.objects.filter(pk=other.pk).update(priority=0)
    assert mates_claim(worker=worker, of=first, pictures=8) == [mate]


def test_what_just_came_is_left_to_an_idle_worker(make: GenerationMaker, worker: Worker) -> None:
    """Unless that does not take it."""
    first, mate = make(), make(seed=1)
    generation_claim(worker=worker)
    make_worker("idle", status=WorkerStatus.IDLE)
    assert mates_claim(worker=worker, of=first, pictures=8) == []
    Generation.objects.filter(pk=mate.pk).update(created_at=timezone.now() - LEFT_TO_THE_IDLE)
    assert mates_claim(worker=worker, of=first, pictures=8) == [mate]


def test_leases_are_renewed_together(make: GenerationMaker, worker: Worker) -> None:
    """Each with its own step; those that are lost or asked to stop are told apart."""
    jobs = [make(seed=seed) for seed in range(3)]
    for _ in jobs:
        generation_claim(worker=worker)
    Generation.objects.filter(pk=jobs[1].pk).update(attempt=2)
    Generation.objects.filter(pk=jobs[2].pk).update(cancel_requested_at=timezone.now())
    progress = {(job.pk, 1): Progress(number, Phase.DENOISING) for number, job in enumerate(jobs, 1)}
    found = attempts_renew(progress=progress)
    assert [found[job.pk, 1] for job in jobs] == [
        Lease(held=True, cancel_requested=False),
        Lease(held=False, cancel_requested=False),
        Lease(held=True, cancel_requested=True),
    ]
    assert [Generation.objects.get(pk=job.pk).step for job in jobs] == [1, 0, 3]
    assert attempts_renew(progress={}) == {}


def test_a_job_is_left_to_the_worker_that_has_its_model(
    make: GenerationMaker, worker: Worker, settings: Settings, tmp_path: Path
) -> None:
    """For as long as loading it took there, where that is worth it; whoever comes behind it is drawn meanwhile."""
    settings.MODEL_CACHE_DIR = tmp_path
    far = checkpoint_fetch("sd-2-1")
    other = make_worker("other", status=WorkerStatus.BUSY)

    def has(load_s: float, **fields: object) -> None:
        model = {"id": far.id, "tier": "resident", "bytes": 1, "adapters": [], "dtype": "", "load_s": load_s}
        Worker.objects.filter(pk=other.pk).update(**{"cached_models": [model], "status": "busy"} | fields)

    def claim(**held: list[str]) -> Generation | None:
        claimed = generation_claim(worker=worker, **{"resident": ["sdxl"]} | held)
        if claimed is not None:
            attempt_hand_back(generation=claimed)
        return claimed

    first = make(checkpoint=far)
    has(6.0)
    assert claim() is None
    behind = make()
    assert claim() == behind
    assert claim(resident=["builtin"]) == behind
    assert claim(resident=[]) == first, "it has room"
    assert claim(warm=[far.id]) == first, "it is in this host's memory"
    has(WORTH_WAITING_S / 2)
    assert claim() == first, "it loads in no time"
    has(6.0, status=WorkerStatus.DRAINING)
    assert claim() == first, "that one takes no more"
    has(6.0)
    Generation.objects.filter(pk=first.pk).update(created_at=timezone.now() - timedelta(seconds=7))
    assert claim() == first, "it has waited as long as a load takes"
