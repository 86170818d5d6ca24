"""A GPU container's health check."""

import io
import socket
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.db.models.functions import Now

from generation.models.workers import WorkerQuerySet
from tests.support.factories import make_worker


def test_only_a_live_worker_of_this_host_is_alive(db: None) -> None:
    """Not another host's, and none whose last sign of life is too long ago."""
    worker = make_worker("w1")
    for hostname, age_s, alive in (
        (socket.gethostname(), 0, True),
        (socket.gethostname(), 60, False),
        ("elsewhere", 0, False),
    ):
        worker.hostname, worker.heartbeat_at = hostname, Now() - timedelta(seconds=age_s)
        worker.save()
        if alive:
            said = io.StringIO()
            call_command("worker_alive", stdout=said)
            assert said.getvalue() == f"A GPU worker of {hostname} is alive.\n"
        else:
            with pytest.raises(CommandError, match="No GPU worker"):
                call_command("worker_alive")


def test_a_database_that_is_away_says_nothing_about_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its container must not be restarted for that."""

    def away(_: WorkerQuerySet) -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(WorkerQuerySet, "live", away)
    errors = io.StringIO()
    call_command("worker_alive", stderr=errors)
    assert "connection refused" in errors.getvalue()
