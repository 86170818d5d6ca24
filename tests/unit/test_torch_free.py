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


@pytest.mark.parametrize(
    "program",
    [
        "from imagegen_project.asgi import application; assert callable(application)",
        "import django; django.setup(); from django.urls import get_resolver; assert get_resolver().url_patterns",
        "import django; django.setup(); from django.core.management import call_command; call_command('check')",
        "import django; django.setup(); import imagegen_project.management.commands.standalone",
        "import django; django.setup(); import generation.management.commands.task_worker",
        "import django; django.setup(); import generation.management.commands.webhook_worker",
        "import django; django.setup(); import loras.tasks",
    ],
    ids=["asgi", "urls", "checks", "standalone", "task_worker", "webhook_worker", "adapter_tasks"],
)
def test_starts_without_torch(program: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "DATA_DIR": str(tmp_path),
        "DJANGO_SETTINGS_MODULE": "imagegen_project.settings",
        "SECRET_KEY": "only-for-this-test-" + "0123456789" * 4,
    }
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + program],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
