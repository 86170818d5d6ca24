"""What is installed: whole, and with the build of torch that belongs there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from imagegen_project import __version__
from scripts.install import DOWNLOAD_MB, UNPACK_S, command_install, installer, torch_wanted
from scripts.locks import TORCH_CPU_INDEX, TORCH_LOCKS

REPOSITORY = Path(__file__).resolve().parents[3]
PYPI = "torch (2.15.0)\nAvailable versions: 2.15.0, 2.13.0, 2.12.1"
WITH_CPU = "torch (2.15.0)\nAvailable versions: 2.15.0, 2.13.0+cpu, 2.13.0"
OWN_INDEX = ["--index-url", TORCH_CPU_INDEX]


@pytest.mark.parametrize(
    ("choice", "installed", "offered", "wanted"),
    [
        ("auto", None, PYPI, ("torch-cuda", [])),
        ("auto", None, "", ("torch-cuda", [])),
        ("auto", None, WITH_CPU, ("torch-cpu", [])),
        ("auto", "2.13.0", WITH_CPU, None),
        ("auto", "2.13.0+rocm6.4", PYPI, None),
        ("auto", "2.12.1+cpu", WITH_CPU, ("torch-cpu", [])),
        ("cpu", None, WITH_CPU, ("torch-cpu", [])),
        ("cpu", None, PYPI, ("torch-cpu", OWN_INDEX)),
        ("cpu", "2.13.0", PYPI, ("torch-cpu", OWN_INDEX)),
        ("cuda", None, PYPI, ("torch-cuda", [])),
        ("cuda", "2.13.0", PYPI, ("torch-cuda", [])),
        ("cuda", "2.13.0+cpu", PYPI, ("torch-cuda", ["--force-reinstall"])),
    ],
)
def test_the_build_of_torch(
    choice: str, installed: str | None, offered: str, wanted: tuple[str, list[str]] | None
) -> None:
    """By choice, else what pip's own settings lead to; another build that somebody installed stays."""
    assert torch_wanted(choice, locked="2.13.0", installed=installed, offered=offered) == wanted


@pytest.mark.parametrize(
    ("lock", "options", "pip_settings", "has_uv", "by_uv"),
    [
        ("all", [], "", True, True),
        ("dev", [], "install.retries='3'", True, True),
        ("torch-cpu", OWN_INDEX, "", True, True),
        # By which index a build of torch comes, only pip knows.
        ("torch-cpu", [], "", True, False),
        ("torch-cuda", [], "", True, False),
        ("all", [], "global.extra-index-url='https://mirror.example.com'", True, False),
        ("all", [], ":env:.index-url='https://mirror.example.com'", True, False),
        ("all", [], "", False, False),
    ],
)
def test_uv_installs_only_what_it_finds_where_pip_does(
    lock: str,
    options: list[str],
    pip_settings: str,
    has_uv: bool,  # noqa: FBT001
    by_uv: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if has_uv else None)
    monkeypatch.setattr(
        "subprocess.run", lambda command, **_: subprocess.CompletedProcess(command, 0, stdout=pip_settings)
    )
    assert (installer(lock, options)[0] == "/bin/uv") is by_uv


def test_what_is_installed_is_announced_with_its_size() -> None:
    """Each lock that is installed by itself, and with how long it takes."""
    assert {"all", "dev", *TORCH_LOCKS} == set(DOWNLOAD_MB) == set(UNPACK_S)


def test_the_command_lies_beside_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And finds the project from any folder."""
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    program.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    command_install()
    assert (tmp_path / "imagegen-here.pth").read_text().strip() == str(REPOSITORY)
    done = subprocess.run(
        [program.with_name("imagegen"), "--version"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"{__version__}\n", done.stderr


def test_the_environment_is_whole() -> None:
    """Locks are installed without resolving: nothing that a package asks for may be missing in them."""
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_file_with_another_hash_is_not_installed(tmp_path: Path) -> None:
    """pip refuses it, with the options that the locks are installed with."""
    (tmp_path / "six-1.17.0.tar.gz").write_bytes(b"something else")
    lock = tmp_path / "some.lock"
    lock.write_text(f"six==1.17.0 --hash=sha256:{'0' * 64}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-index", "--find-links", str(tmp_path)]
    command += ["--require-hashes", "--no-deps", "--dest", str(tmp_path / "got"), "-r", str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr


@pytest.mark.parametrize("name", ["Makefile", "Dockerfile", "scripts/install.py"])
def test_everything_is_installed_by_hash_and_from_one_index(name: str) -> None:
    """But for the build of torch that whoever builds an image takes from an index of their own."""
    text = (REPOSITORY / name).read_text().replace("\\\n", " ")
    assert "extra-index-url" not in text
    for line in re.findall(r"pip .*\binstall .*|\binstall --.*", text):
        assert "--require-hashes" in line or "TORCH_INDEX" in line, line
