"""Other services' client programs that install within seconds; `make clients` runs the others too."""

import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.clients import PROGRAMS, program_run
from tests.support.live import Live


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where programs are installed."""
    return tmp_path_factory.mktemp("programs")


@pytest.mark.parametrize("program", ["vercel-ai", "huggingface-inference", "openapi-python-client"])
def test_a_program(live: Live, installed: Path, program: str) -> None:
    """Each thing that its driver asks of it works."""
    if PROGRAMS[program].installer == "npm" and shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    try:
        row = program_run(program, url=live.url, token=live.token, cache=installed)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the registry cannot be reached: {error}")
    assert row.works
    assert not row.fails
