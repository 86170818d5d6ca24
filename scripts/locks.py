"""Pins every package in `locks/` with its hashes, from the requirements*.txt that are written by hand.

`make lock` resolves them with uv, over the network. `make check-locks` only compares: it needs neither a network nor
an installed package.
"""

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

SOURCES = {
    "web": "requirements-web.txt",
    "worker": "requirements-worker.txt",
    "all": "requirements.txt",
    "dev": "requirements-dev.txt",
    "sbom": "requirements-sbom.txt",
    "quantized": "requirements-quantized.txt",
}
# Locks of what comes beside an environment that has all that it needs: without that.
BESIDE = ("quantized",)
# A lock includes the one that is named here and holds only what comes on top of it.
BASES = {"worker": "web", "all": "worker", "dev": "all"}
TORCH_LOCKS = ("torch-cuda", "torch-cpu")
# The CPU builds for Linux are not on PyPI.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
OLDEST_PYTHON = "3.11"

# torch, and the packages that only its CUDA build needs.
TORCH_PACKAGE = re.compile(r"torch|triton|nvidia-.+|cuda-.+")
PACKAGE = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(?P<version>[^\s;]+)(?P<rest>.*)")
HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})(?!\S)")
DIGEST = re.compile(r"^# requirements (sha256:[0-9a-f]{64})$", flags=re.MULTILINE)


class LockError(Exception):
    """A requirement or a lock that is not as it must be, or a resolver that failed."""


@dataclass(frozen=True)
class Package:
    """One package of a requirements file or a lock; `text` is all its lines."""

    name: str
    version: str
    hashes: frozenset[str]
    text: str


def packages(text: str) -> Iterator[Package]:
    """The packages of a requirements file or a lock.

    Raises LockError for anything else: an index or an address that is named beside PyPI is asked for every package,
    and whoever takes a name there is installed.
    """
    entry = ""
    for line in text.splitlines():
        entry += line + "\n"
        if line.endswith("\\"):
            continue
        # pip's own rule: a comment begins a line or follows a blank.
        plain = re.sub(r"(^|\s)#.*", "", entry.replace("\\\n", " ")).strip()
        whole, entry = entry, ""
        if not plain:
            continue
        found = PACKAGE.fullmatch(plain)
        if found is None:
            raise LockError(f"{plain!r} is not of the form name==version")
        # Names are compared as indexes compare them (PEP 503).
        name = re.sub(r"[-_.]+", "-", found["name"]).lower()
        yield Package(name, found["version"], frozenset(HASH.findall(found["rest"])), whole)


def read(path: Path) -> list[Package]:
    """The packages of a requirements file or a lock, and of those that it includes."""
    found: list[Package] = []
    rest: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if included := re.fullmatch(r"-r\s+(\S+)", line):
            found += read(path.parent / included[1])
        else:
            rest.append(line)
    return [*found, *packages("\n".join(rest))]


def lock_path(name: str, *, root: Path) -> Path:
    """Where a lock lies."""
    return root / "locks" / f"{name}.lock"


def made_from(name: str, *, root: Path) -> list[Package]:
    """What a lock is made from: for torch's locks, torch alone."""
    if name in SOURCES:
        return read(root / SOURCES[name])
    return [package for package in read(root / SOURCES["worker"]) if package.name == "torch"]


def digest(wanted: Iterable[Package]) -> str:
    """Changes with any requirement, not with comments, blanks or order."""
    lines = sorted(" ".join(re.sub(r"\s#.*", "", package.text).split()) for package in wanted)
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()


# --- comparing


def differences(*, root: Path = REPOSITORY) -> list[str]:
    """What is wrong with the locks, a sentence each; empty when nothing is."""
    found: list[str] = []
    for name in (*SOURCES, *TORCH_LOCKS):
        try:
            wanted = made_from(name, root=root)
            locked = read(lock_path(name, root=root))
            text = lock_path(name, root=root).read_text(encoding="utf-8")
        except FileNotFoundError as error:
            found.append(f"{error.filename} is missing")
        except LockError as error:
            found.append(f"{name}.lock: {error}")
        else:
            if DIGEST.findall(text) != [digest(wanted)]:
                found.append(f"{name}.lock was made from other requirements")
            found += [
                f"{name}.lock: {fault}" for fault in _faults(locked, wanted, of_torch=name in TORCH_LOCKS)
            ]
    return found


def _faults(locked: Sequence[Package], wanted: Sequence[Package], *, of_torch: bool) -> Iterator[str]:
    versions: set[tuple[str, str]] = set()
    for package in locked:
        if not package.hashes:
            yield f"{package.name} has no hash"
        if bool(TORCH_PACKAGE.fullmatch(package.name)) != of_torch:
            yield f"{package.name} belongs {'elsewhere' if of_torch else 'in the locks of torch'}"
        versions.add((package.name, package.version.partition("+")[0]))
    for package in wanted:
        if (package.name == "torch") == of_torch and (package.name, package.version) not in versions:
            yield f"{package.name}=={package.version} is required and not there"


# --- resolving


def resolve(
    source: Path, *, uv: str, known: str = "", constraints: Path | None = None, options: Sequence[str] = ()
) -> str:
    """What uv makes of a requirements file, for all platforms and Pythons; of `known` it keeps what it can."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "lock"
        output.write_text(known, encoding="utf-8")
        command = [uv, "pip", "compile", str(source), "--output-file", str(output), "--quiet"]
        command += ["--universal", "--python-version", OLDEST_PYTHON, "--generate-hashes"]
        command += ["--no-header", "--annotation-style", "line", *options]
        if constraints is not None:
            command += ["--constraint", str(constraints)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LockError(f"uv could not resolve {source.name}:\n{done.stderr.strip()}")
        return output.read_text(encoding="utf-8")


def write(name: str, body: str, *, origin: str, root: Path) -> None:
    """Stores a lock with the digest of what it was made from."""
    header = f"# Made by `make lock` from {origin}: change that, not this.\n"
    header += f"# requirements {digest(made_from(name, root=root))}\n"
    if name in BASES:
        header += f"-r {BASES[name]}.lock\n"
    lock_path(name, root=root).parent.mkdir(exist_ok=True)
    lock_path(name, root=root).write_text(header + body, encoding="utf-8")
    _say(f"locks/{name}.lock: {len(read(lock_path(name, root=root)))} packages")


def lock(*, uv: str, options: Sequence[str] = (), root: Path = REPOSITORY) -> None:
    """Makes all locks anew; versions that still fit stay, unless an option for uv says `--upgrade`."""
    paths = [lock_path(name, root=root) for name in ("dev", "torch-cuda")]
    before = "".join(package.text for path in paths if path.exists() for package in read(path))
    whole = resolve(root / SOURCES["dev"], uv=uv, known=before, options=options)
    held: dict[str, set[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text(whole, encoding="utf-8")
        for name, source in SOURCES.items():
            if name in BESIDE:
                write(name, resolve(root / source, uv=uv, options=["--no-deps"]), origin=source, root=root)
                continue
            part = resolve(root / source, uv=uv, constraints=constraints)
            held[name] = {package.name for package in packages(part)}
            new = held[name] - held.get(BASES.get(name, ""), set())
            # The lines are those of the whole, whose markers cover whatever else wants the package.
            body = [
                package.text
                for package in packages(whole)
                if package.name in new and not TORCH_PACKAGE.fullmatch(package.name)
            ]
            write(name, "".join(body), origin=source, root=root)
    torch = [package.text for package in packages(whole) if TORCH_PACKAGE.fullmatch(package.name)]
    write("torch-cuda", "".join(torch), origin="requirements-worker.txt's torch on PyPI", root=root)
    lock_torch_cpu(uv=uv, root=root)


def lock_torch_cpu(*, uv: str, root: Path) -> None:
    """Locks torch's CPU builds; where their index cannot be reached, the lock stays as it is, and that is said."""
    [torch] = made_from("torch-cpu", root=root)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "torch.txt"
        source.write_text(f"torch=={torch.version}+cpu\n", encoding="utf-8")
        try:
            body = resolve(source, uv=uv, options=["--no-deps", "--default-index", TORCH_CPU_INDEX])
        except LockError as error:
            _say(f"locks/torch-cpu.lock: NOT made anew, since {TORCH_CPU_INDEX} gave nothing. {error}")
            return
    write("torch-cpu", body, origin=f"requirements-worker.txt's torch on {TORCH_CPU_INDEX}", root=root)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def main(arguments: Sequence[str]) -> int:
    """Runs `check`, or `lock` with options for uv."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("command", choices=["check", "lock"])
    parser.add_argument("--uv", default="uv", help="the program uv")
    known, options = parser.parse_known_args(arguments)
    try:
        if known.command == "lock":
            lock(uv=known.uv, options=options)
        found = differences()
    except LockError as error:
        found = [str(error)]
    for line in found:
        _say(line)
    _say("The locks are not those of the requirements: run make lock." if found else "The locks fit.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
