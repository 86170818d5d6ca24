"""Who sweeps. What a sweep puts right is tested beside what it is about."""

from typing import Any

import pytest
import redis

from generation.attempts import generation_claim
from generation.choices import Status
from generation.models import Generation, Worker
from generation.upkeep.sweep import SWEPT_KEY, sweep, sweep_where_nobody_does
from tests.support.factories import GenerationMaker


@pytest.fixture
def lost(make: GenerationMaker, worker: Worker) -> Generation:
    """A generation whose worker is gone."""
    make()
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    Generation.objects.update(lease_expires_at=claimed.created_at)
    return claimed


def test_one_process_sweeps_for_all(lost: Generation, redis_client: "redis.Redis[Any]") -> None:
    """Who draws leaves it to others as long as they do it, and does it once they have stopped."""
    sweep()
    lost.refresh_from_db()
    assert lost.status == Status.QUEUED
    Generation.objects.update(status=Status.RUNNING, lease_expires_at=lost.created_at)
    sweep_where_nobody_does()
    lost.refresh_from_db()
    assert lost.status == Status.RUNNING
    redis_client.delete(SWEPT_KEY)  # as it goes by itself
    sweep_where_nobody_does()
    lost.refresh_from_db()
    assert lost.status == Status.QUEUED
    left: Any = redis_client.pttl(SWEPT_KEY)
    assert 0 < left <= 4000


def test_everybody_sweeps_while_redis_is_away(lost: Generation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows of the others then."""
    sweep()
    Generation.objects.update(status=Status.RUNNING, lease_expires_at=lost.created_at)

    def unreachable(*args: Any, **kwargs: Any) -> Any:
        raise redis.exceptions.ConnectionError

    monkeypatch.setattr("generation.upkeep.sweep.redis_client", unreachable)
    sweep_where_nobody_does()
    lost.refresh_from_db()
    assert lost.status == Status.QUEUED
