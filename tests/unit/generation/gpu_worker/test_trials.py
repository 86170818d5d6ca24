"""A process that dies while it puts an adapter on a model leaves its name behind; the second death is the last."""

import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError
from django.utils import timezone
from pytest_django import Settings

from generation.attempts import generation_claim
from generation.engine import AdapterUse, EngineAdapterUnusable
from generation.gpu_worker.batch import batch_of
from generation.gpu_worker.trials import attach_on_trial, trials_settle
from generation.lora_uses import LoraWish
from generation.models import Worker
from generation.upkeep.sweep import sweep
from loras.models import Lora, LoraTrial
from loras.trials import trial_begin
from tests.support.factories import GenerationMaker, make_worker

SHA256 = "ab" * 32
USE = AdapterUse("mine", SHA256, Path("mine.safetensors"), 1.0)


def killed_while_attaching(worker: str) -> None:
    """What a killed process leaves: a trial that nobody ends."""
    trial_begin(sha256=SHA256, worker=worker)


@pytest.fixture
def lora(owner: User, tmp_path: Path, settings: Settings) -> Lora:
    """A present adapter of that content."""
    settings.LORA_CACHE_DIR = tmp_path
    (tmp_path / f"{SHA256}.safetensors").write_bytes(b"x")
    return Lora.objects.create(
        owner=owner,
        name="mine",
        source="upload",
        family="builtin",
        rank=4,
        alpha=4.0,
        sha256=SHA256,
        state="present",
    )


@pytest.mark.django_db(transaction=True)
def test_what_kills_two_workers_is_put_out_of_use(lora: Lora, make: GenerationMaker) -> None:
    """The generation that waits for a third try ends, and says why."""
    generation = make(loras=[LoraWish(1.0, lora=lora)])
    for number, state in ((1, "present"), (2, "broken")):
        worker = make_worker(f"worker-{number}")
        killed_while_attaching(worker.name)
        sweep()  # it may still be alive
        lora.refresh_from_db()
        assert (lora.state, LoraTrial.objects.count()) == ("present", number)
        Worker.objects.update(heartbeat_at=timezone.now() - timedelta(seconds=30))
        sweep()
        lora.refresh_from_db()
        assert lora.state == state
    generation.refresh_from_db()
    assert (generation.status, generation.error_code) == ("failed", "lora_unavailable")
    assert "2 GPU workers died" in generation.error_detail


def test_a_name_that_is_born_again_was_dead(db: None) -> None:
    """In a container the process before had the same number on the same host."""
    make_worker("host-1")
    other = make_worker("host-2")
    for name in ("host-1", "host-2"):
        LoraTrial.objects.create(sha256=SHA256, worker=name)
    trials_settle(reborn="host-1")
    assert [trial.worker for trial in LoraTrial.objects.filter(died_at__isnull=True)] == [other.name]


def test_what_ends_is_forgotten(db: None) -> None:
    """Well or not."""
    with attach_on_trial(USE, worker="one"):
        assert LoraTrial.objects.get().worker == "one"
    assert not LoraTrial.objects.exists()
    with pytest.raises(ValueError, match="refused"), attach_on_trial(USE, worker="one"):
        raise ValueError("refused")
    assert not LoraTrial.objects.exists()


def test_without_the_database_it_is_attached_all_the_same(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A note is not worth a picture."""

    def away(**values: object) -> None:
        raise DatabaseError

    monkeypatch.setattr("generation.gpu_worker.trials.trial_begin", away)
    began = time.monotonic()
    with attach_on_trial(USE, worker="one"):
        assert time.monotonic() >= began
    assert not LoraTrial.objects.exists()


def test_a_broken_adapter_is_not_tried_again(lora: Lora, make: GenerationMaker, worker: Worker) -> None:
    """Also by a job that was claimed just before."""
    make(loras=[LoraWish(1.0, lora=lora)])
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    Lora.objects.update(state="broken", error_code="unusable", error_detail="2 GPU workers died.")
    with pytest.raises(EngineAdapterUnusable, match="2 GPU workers died"):
        batch_of(claimed)
