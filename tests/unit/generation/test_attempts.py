"""What is kept of attempts that did not end a generation."""

from datetime import timedelta

from django.utils import timezone
from rest_framework.test import APIClient

from generation.attempts import attempt_hand_back, generation_claim
from generation.models import Generation, Worker
from generation.upkeep.sweep import leases_take_back
from tests.support.factories import GenerationMaker


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
