"""The web process and the task worker run where torch is not installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "diffusers", "transformers", "peft", "accelerate"}:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Blocker())
"""


PROGRAMS = """
from imagegen_project.asgi import application
from django.core.management import call_command
from django.urls import get_resolver
import imagegen_project.management.commands.standalone
import generation.management.commands.task_worker
import generation.management.commands.webhook_worker
import loras.tasks
assert callable(application) and get_resolver().url_patterns
call_command("check")
"""


@pytest.mark.slow
def test_everything_but_the_gpu_worker_starts_without_torch(tmp_path: Path) -> None:
    """Web, checks, standalone, the task worker, the webhook worker and the tasks of LoRAs."""
    environment = {
        **os.environ,
        "DATA_DIR": str(tmp_path),
        "DJANGO_SETTINGS_MODULE": "imagegen_project.settings",
        "SECRET_KEY": "only-for-this-test-" + "0123456789" * 4,
    }
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + PROGRAMS],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
