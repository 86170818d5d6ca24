"""The import contracts in pyproject.toml: each fails once it is broken; that none is, `make lint` says."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LINTER = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]
# For each contract one import that it is there to refuse: the module, what it imports, and the line that does so.
PLANTED = {
    "apps": ("imagegen_project.server.gate", "generation.services", "from generation import services"),
    "rooms": ("generation.queue.turns", "generation.feed.lag", "from generation.feed import lag"),
    "workers-know-no-clients": (
        "generation.gpu_worker.run",
        "generation.requests.creation",
        "from generation.requests import creation",
    ),
    "engine-has-one-user": ("generation.attempts", "generation.engine", "from generation import engine"),
    "inside-loras": ("loras.models", "loras.services", "from loras import services"),
    "reading-is-plain": ("loras.reading", "django", "import django"),
    "inside-registry": (
        "models_registry.models",
        "models_registry.services",
        "from models_registry import services",
    ),
    "no-torch-in-web": ("generation.selectors", "torch", "import torch"),
    "engine-is-plain": (
        "generation.engine.specs",
        "imagegen_project.env",
        "from imagegen_project import env",
    ),
    "launcher-is-plain": ("imagegen_project.standalone.supervisor", "django", "import django"),
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the linter says of a copy of the code with all of these imports in it, by the name of the contract."""
    copy = tmp_path_factory.mktemp("contracts")
    shutil.copy(REPOSITORY / "pyproject.toml", copy)
    for package in LINTER["root_packages"]:
        shutil.copytree(
            REPOSITORY / package,
            copy / package,
            ignore=lambda folder, names: [
                name for name in names if Path(name).suffix not in ("", ".py") or name == "__pycache__"
            ],
        )
    for module, _, line in PLANTED.values():
        with (copy / module.replace(".", "/")).with_suffix(".py").open("a") as file:
            file.write(f"\n{line}\n")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as lint; lint()",
            "--no-cache",
        ],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    complaints = done.stdout.partition("Broken contracts")[2]
    names = [contract["name"] for contract in LINTER["contracts"]]
    begins = {name: complaints.index(f"\n{name}\n") for name in names if f"\n{name}\n" in complaints}
    return {
        name: complaints[begin : min((other for other in begins.values() if other > begin), default=None)]
        for name, begin in begins.items()
    }


@pytest.mark.parametrize("contract", LINTER["contracts"], ids=lambda contract: str(contract["id"]))
def test_a_contract_fails_when_it_is_broken(contract: dict[str, str], broken: dict[str, str]) -> None:
    """It names the very import that was planted for it."""
    module, imported, _ = PLANTED[contract["id"]]
    assert re.search(
        rf"^-? +{re.escape(module)} -> {re.escape(imported)} \(l\.", broken[contract["name"]], re.M
    )
