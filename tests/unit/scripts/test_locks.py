"""The locks: what they hold, how drift is found, and what a resolver's answer becomes."""

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts import locks
from scripts.locks import REPOSITORY, LockError, differences, lock_path, packages, read

HASH = "sha256:" + "0" * 64


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the requirements and their locks."""
    for file in REPOSITORY.glob("requirements*.txt"):
        shutil.copy(file, tmp_path)
    shutil.copytree(REPOSITORY / "locks", tmp_path / "locks")
    return tmp_path


def change(file: Path, pattern: str, replacement: str) -> None:
    """Changes a file, and fails if there was nothing to change."""
    text, count = re.subn(pattern, replacement, file.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1
    file.write_text(text)


def test_the_locks_are_those_of_the_requirements() -> None:
    assert differences() == []


def test_drift_is_found_without_installed_packages() -> None:
    """As CI looks for it: with Python alone, in isolation from what is installed."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "scripts.locks", "check"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "The locks fit.\n")


@pytest.mark.parametrize(
    ("file", "pattern", "replacement"),
    [
        ("requirements-web.txt", r"^rq==\S+", "rq==3.0.1"),
        ("requirements-web.txt", r"\[s3\]", ""),
        ("requirements-web.txt", r"^whitenoise.*\n", ""),
        ("requirements-worker.txt", r"^torch==\S+", "torch==2.12.1"),
        ("requirements.txt", r' and platform_machine == "x86_64"', ""),
        ("requirements-dev.txt", r"\Z", "six==1.17.0  # new\n"),
        ("requirements-sbom.txt", r"^cyclonedx-bom==\S+", "cyclonedx-bom==7.4.0"),
        ("locks/web.lock", r"^daphne==\S+", "daphne==4.2.2"),
        ("locks/web.lock", r"^rq==3.0.0.*(?:\n    --hash=\S+.*)+", "rq==3.0.0"),
        ("locks/worker.lock", r"\Z", f"triton==3.7.1 --hash={HASH}\n"),
        ("locks/torch-cuda.lock", r"\Z", f"six==1.17.0 --hash={HASH}\n"),
        ("locks/torch-cpu.lock", r"^torch==\S+", "torch==2.12.1+cpu"),
        ("locks/all.lock", r"\Z", "--extra-index-url https://packages.invalid/simple\n"),
        ("requirements-dev.txt", r"\Z", "--extra-index-url https://packages.invalid/simple\n"),
        ("requirements-dev.txt", r"\Z", "six @ https://packages.invalid/six.whl\n"),
        ("requirements-web.txt", r"^rq==3.0.0", "rq>=3.0.0"),
    ],
)
def test_drift_is_found(tree: Path, file: str, pattern: str, replacement: str) -> None:
    """A requirement that changed, a lock that was changed by hand, and any second index."""
    assert differences(root=tree) == []
    change(tree / file, pattern, replacement)
    assert differences(root=tree)


def test_a_missing_lock_is_found(tree: Path) -> None:
    lock_path("sbom", root=tree).unlink()
    [fault] = differences(root=tree)
    assert fault.endswith("sbom.lock is missing")


def test_comments_and_order_are_no_drift(tree: Path) -> None:
    change(tree / "requirements-web.txt", r"^rq==3.0.0 .*\n", "")
    change(tree / "requirements-web.txt", r"\Z", "\n# last\nrq==3.0.0    # otherwise said\n")
    assert differences(root=tree) == []


def test_every_package_has_one_version_everywhere() -> None:
    """Where Pythons differ in it, the markers part them; and what builds the bill is what was tested."""
    whole = {(each.name, each.version, each.hashes) for each in read(lock_path("dev", root=REPOSITORY))}
    assert {
        (each.name, each.version, each.hashes) for each in read(lock_path("sbom", root=REPOSITORY))
    } <= whole
    assert len({(name, version) for name, version, _ in whole}) == len(
        read(lock_path("dev", root=REPOSITORY))
    )


def test_the_packages_that_are_patched_are_named() -> None:
    """Private parts of them are relied on, so their versions are chosen, not resolved."""
    named = {each.name for each in read(REPOSITORY / "requirements-web.txt")}
    assert {"daphne", "twisted", "autobahn"} <= named


def test_the_web_needs_nothing_of_torch() -> None:
    names = {each.name for each in read(lock_path("web", root=REPOSITORY))}
    assert not names & {"torch", "diffusers", "transformers", "accelerate", "safetensors"}


def test_a_package_is_read_with_its_marker_and_hashes() -> None:
    hashes = f"    --hash={HASH} \\\n    --hash={HASH[:-1]}1  # via d\n"
    text = f"# a comment\nA_b.C[x,y]==1.0 ; python_version < '3.12' \\\n{hashes}"
    [package] = packages(text)
    assert (package.name, package.version) == ("a-b-c", "1.0")
    assert package.hashes == {HASH, f"{HASH[:-1]}1"}


def test_cut_off_hashes_do_not_count() -> None:
    [package] = packages(f"six==1.17.0 --hash={HASH[:-1]}")
    assert package.hashes == frozenset()


UV = str(Path(sys.executable).with_name("uv"))
REQUIREMENTS = {
    "requirements-web.txt": "web==1.0  # serves\n",
    "requirements-worker.txt": "-r requirements-web.txt\ndraws==1.0  # draws\ntorch==2.0  # tensors\n",
    "requirements.txt": '-r requirements-worker.txt\nkeeps==1.0 ; sys_platform == "linux"  # keeps\n',
    "requirements-sbom.txt": "lists==1.0  # lists\n",
    "requirements-quantized.txt": "eighths==1.0  # reads\n",
    "requirements-dev.txt": "-r requirements.txt\n-r requirements-sbom.txt\nchecks==1.0  # checks\n",
}
PACKAGES = [
    ("web-1.0", ["shared>=1"]),
    ("draws-1.0", ["torch", "shared"]),
    ("torch-2.0", ["shared", 'nvidia-thing==3.0 ; sys_platform == "linux"']),
    ("nvidia-thing-3.0", []),
    ("keeps-1.0", []),
    ("lists-1.0", ["shared<2"]),
    ("checks-1.0", []),
    ("eighths-1.0", ["torch", "shared<2"]),
    ("shared-1.0", []),
    ("shared-1.1", []),
    ("shared-2.0", []),
]


def publish(index: Path, name: str, requires: list[str]) -> None:
    """Puts a wheel without content into a package index (PEP 503) that is a folder."""
    package, _, version = name.rpartition("-")
    wheel = f"{package.replace('-', '_')}-{version}-py3-none-any.whl"
    folder = index / package
    folder.mkdir(parents=True, exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
    with zipfile.ZipFile(folder / wheel, "w") as archive:
        info = f"{package.replace('-', '_')}-{version}.dist-info"
        archive.writestr(
            f"{info}/METADATA", metadata + "".join(f"Requires-Dist: {each}\n" for each in requires)
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256((folder / wheel).read_bytes()).hexdigest()
    page = folder / "index.html"
    link = f'<a href="{wheel.replace("+", "%2B")}#sha256={digest}">{wheel}</a>'
    page.write_text((page.read_text() if page.exists() else "<!DOCTYPE html>") + link)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Requirements of a few packages, and an index that has them, which uv asks instead of PyPI."""
    for name, requires in PACKAGES:
        publish(tmp_path / "index", name, requires)
    for file, text in REQUIREMENTS.items():
        (tmp_path / file).write_text(text)
    publish(tmp_path / "cpu", "torch-2.0+cpu", ["shared"])
    monkeypatch.setattr(locks, "TORCH_CPU_INDEX", (tmp_path / "cpu").as_uri())
    monkeypatch.setenv("UV_DEFAULT_INDEX", (tmp_path / "index").as_uri())
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def own(root: Path) -> dict[str, list[str]]:
    """What each lock pins itself."""
    return {
        name: re.findall(
            r"^([a-z0-9-]+==[^\s;]+)", lock_path(name, root=root).read_text(), flags=re.MULTILINE
        )
        for name in (*locks.SOURCES, *locks.TORCH_LOCKS)
    }


def test_each_lock_holds_what_comes_on_top(small: Path) -> None:
    """All of one resolution; torch and its CUDA packages stand in a lock of their own."""
    locks.lock(uv=UV, root=small)
    assert own(small) == {
        "web": ["shared==1.1", "web==1.0"],
        "worker": ["draws==1.0"],
        "all": ["keeps==1.0"],
        "dev": ["checks==1.0", "lists==1.0"],
        "sbom": ["lists==1.0", "shared==1.1"],
        "quantized": ["eighths==1.0"],
        "torch-cuda": ["nvidia-thing==3.0", "torch==2.0"],
        "torch-cpu": ["torch==2.0+cpu"],
    }
    assert differences(root=small) == []
    wheel = small / "index" / "shared" / "shared-1.1-py3-none-any.whl"
    [shared] = [each for each in read(lock_path("web", root=small)) if each.name == "shared"]
    assert shared.hashes == {f"sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"}


@pytest.mark.slow
def test_versions_stay_until_they_are_upgraded(small: Path) -> None:
    """A change of one requirement moves nothing else."""
    locks.lock(uv=UV, root=small)
    before = own(small)
    publish(small / "index", "shared-1.2", [])
    locks.lock(uv=UV, root=small)
    assert own(small) == before
    locks.lock(uv=UV, options=["--upgrade"], root=small)
    assert own(small)["web"] == ["shared==1.2", "web==1.0"]


@pytest.mark.slow
def test_an_index_that_cannot_be_reached_changes_nothing(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No hash is made up: the lock of torch's CPU build stays, that is said, and then found to be another's."""
    locks.lock(uv=UV, root=small)
    before = lock_path("torch-cpu", root=small).read_text()
    monkeypatch.setattr(locks, "TORCH_CPU_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    publish(small / "index", "torch-2.1", ["shared"])
    change(small / "requirements-worker.txt", "torch==2.0", "torch==2.1")
    locks.lock(uv=UV, root=small)
    assert lock_path("torch-cpu", root=small).read_text() == before
    assert "NOT made anew" in capsys.readouterr().out
    assert differences(root=small) == [
        "torch-cpu.lock was made from other requirements",
        "torch-cpu.lock: torch==2.1 is required and not there",
    ]


def test_a_requirement_that_does_not_exist_changes_no_lock(small: Path) -> None:
    locks.lock(uv=UV, root=small)
    before = own(small)
    change(small / "requirements-web.txt", "web==1.0", "web==7.0")
    with pytest.raises(LockError, match="could not resolve"):
        locks.lock(uv=UV, root=small)
    assert own(small) == before
