"""`status`, `workers` and `tokens`, on real rows."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.db.models.functions import Now
from knox.models import AuthToken

from generation.choices import ErrorCode, Status
from generation.models import Generation, Worker
from imagegen_project import env
from imagegen_project.auth.services import token_create
from imagegen_project.cli.exits import Exit
from imagegen_project.cli.main import main
from tests.support.factories import GenerationMaker, make_worker


def test_status_counts_queue_failures_and_workers(
    make: GenerationMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the database's clock; what failed longer ago than an hour is not counted."""
    alive = make_worker("alive", device="cpu", memory_total_mb=2000, memory_free_mb=500)
    make_worker("silent")
    Worker.objects.filter(name="silent").update(heartbeat_at=Now() - timedelta(minutes=3))
    waiting = make()
    Generation.objects.filter(pk=waiting.pk).update(created_at=Now() - timedelta(seconds=90))
    running = make()
    Generation.objects.filter(pk=running.pk).update(
        status=Status.RUNNING, worker=alive, attempt=1, started_at=Now(), lease_expires_at=Now()
    )
    for minutes in (5, 10, 90):
        failed = make()
        Generation.objects.filter(pk=failed.pk).update(
            status=Status.FAILED,
            error_code=ErrorCode.OUT_OF_MEMORY,
            finished_at=Now() - timedelta(minutes=minutes),
        )
    assert main(["status", "--json"]) == Exit.DONE
    seen = json.loads(capsys.readouterr().out)
    assert (seen["queued"], seen["running"]) == (1, 1)
    assert 90 <= seen["oldest_queued_s"] < 150
    assert seen["failed_last_hour"] == {"out_of_memory": 2}
    assert [(one["name"], one["alive"], one["jobs"]) for one in seen["workers"]] == [
        ("alive", True, [str(running.pk)]),
        ("silent", False, []),
    ]
    assert main(["status"]) == Exit.DONE
    said = capsys.readouterr().out
    assert "1 waiting, the oldest for 1 min 3" in said
    assert "failed: 2 out_of_memory" in said
    assert "3 min" in next(line for line in said.splitlines() if line.startswith("silent"))


def test_tokens_are_made_listed_and_revoked(owner: User, capsys: pytest.CaptureFixture[str]) -> None:
    """What a token says is shown once."""
    assert main(["tokens", "create", "ada", "--days", "3", "--json"]) == Exit.DONE
    token = json.loads(capsys.readouterr().out)["token"]
    other = token_create(user=User.objects.create_user("bob"), expires_in=None)
    assert main(["tokens", "list", "--user", "ada", "--json"]) == Exit.DONE
    printed = capsys.readouterr().out
    assert token not in printed
    [row] = json.loads(printed)
    assert (row["user"], row["last_used_at"]) == ("ada", None)
    assert main(["tokens", "list"]) == Exit.DONE
    listed = capsys.readouterr().out
    assert "bob" in listed
    assert other not in listed
    assert main(["tokens", "revoke", row["id"]]) == Exit.DONE
    assert not AuthToken.objects.filter(user=owner).exists()
    assert AuthToken.objects.count() == 1


def test_a_service_that_is_stopped_is_said_at_once(
    db: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a connection that is refused, and not by the pool, which tries again for ten seconds."""
    monkeypatch.setitem(connection.settings_dict, "HOST", "127.0.0.1")
    monkeypatch.setitem(connection.settings_dict, "PORT", "9")
    monkeypatch.setattr(env, "DATABASE_URL", "postgresql://127.0.0.1:9/imagegen")
    assert main(["status"]) == Exit.UNREACHABLE
    assert "The database cannot be asked (" in capsys.readouterr().err
    monkeypatch.setattr(env, "DATABASE_URL", "")
    monkeypatch.setattr(env, "DATA_DIR", tmp_path)
    assert main(["status"]) == Exit.UNREACHABLE
    assert f"No service runs on the data folder {tmp_path}: `imagegen demo`" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nonsense", "0198c5d2-7a51-7c3e-9a40-5f1d8a1c2b3d"])
def test_a_token_that_there_is_not_is_said(db: None, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokens", "revoke", name]) == Exit.USAGE
    assert "imagegen tokens list" in capsys.readouterr().err
