"""What the site's commands say."""

import json
import subprocess
import sys
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from imagegen_project import env


def test_waiting_says_what_is_there(db: None) -> None:
    """A line each, so that a start that hangs shows what it waits for."""
    said = StringIO()
    call_command("wait_for", "database", "redis", "migrations", stdout=said)
    assert said.getvalue() == "database: there.\nredis: there.\nmigrations: there.\n"


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (["sweep"], {"swept": {}}),
        (["sweep", "--files", "--dry-run"], {"files": [], "rows": [], "inputs_missing": [], "dry_run": True}),
        (["prune_generations", "--older-than", "1d"], {"generations": 0, "bytes": 0, "dry_run": False}),
        (["prune_cache", "--dry-run"], {"files": [], "dry_run": True}),
        (["tell_schedulers", "--dry-run"], {"loras": [], "dry_run": True}),
        (["wait_for", "database"], {"there": ["database"]}),
        (["prefetch_models", "builtin"], {"models": {"builtin": "already there"}}),
    ],
)
def test_a_command_that_ends_prints_one_document(db: None, command: list[str], found: dict[str, Any]) -> None:
    """With `--json`, and no word beside it."""
    said = StringIO()
    call_command(*command, "--json", stdout=said)
    assert json.loads(said.getvalue()) == found


def test_what_keeps_a_command_from_its_end_is_in_its_document(db: None) -> None:
    said = StringIO()
    with pytest.raises(CommandError):
        call_command("prune_generations", "--older-than", "1d", "--user", "nobody", "--json", stdout=said)
    error = json.loads(said.getvalue())["error"]
    assert error["code"] == "usage"
    assert "'nobody'" in error["detail"]


def test_a_worker_begins_with_its_allocator_set() -> None:
    """Started without, a process starts itself anew under the same id; what somebody has set stays."""
    shown = "MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "PYTORCH_ALLOC_CONF"
    program = f"""
import os
from imagegen_project import env
env.worker_process_ensure()
print(os.getpid(), *(os.environ[name] for name in {shown}))
"""
    bare = {
        name: value for name, value in env.child_environment().items() if name not in env.WORKER_ALLOCATOR
    }
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**bare, "MALLOC_TRIM_THRESHOLD_": "1000"},
        stdout=subprocess.PIPE,
        text=True,
    )
    said, _ = process.communicate(timeout=60)
    assert said.split() == [
        str(process.pid),
        "1",
        "4294967296",
        "1000",
        "pinned_max_round_threshold_mb:1",
    ]
