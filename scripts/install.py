"""Installs a lock into the environment that runs this, and the build of torch that belongs there.

Every file is checked against the lock's hashes before it is installed. Needs only Python and its pip.
"""

import argparse
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from scripts.locks import REPOSITORY, TORCH_CPU_INDEX, lock_path, read

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def torch_wanted(
    choice: str, *, locked: str, installed: str | None, offered: str
) -> tuple[str, list[str]] | None:
    """The lock of torch to install, and options of pip for it; None: what is installed stays.

    Without a choice it is whatever pip's own settings lead to: the CPU build where they offer it, else PyPI's. A build
    that was installed beforehand (another CUDA, ROCm) stays, as long as its version is the locked one.
    """
    if choice == "auto" and installed and installed.partition("+")[0] == locked:
        return None
    has_cpu = f"{locked}+cpu" in offered.replace(",", " ").split()
    if choice == "cpu" or (choice == "auto" and has_cpu):
        # One index, never two: a name that only one of them should have could be taken on the other.
        return "torch-cpu", [] if has_cpu else ["--index-url", TORCH_CPU_INDEX]
    # To pip, 2.13.0+cpu is a 2.13.0 as well.
    return "torch-cuda", ["--force-reinstall"] if installed and installed != locked else []


def installed_torch() -> str | None:
    """The version of torch in this environment."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return None


def install(lock: str, *options: str) -> int:
    """Installs what a lock holds, and shows pip's progress; answers its exit code."""
    path = lock_path(lock, root=REPOSITORY)
    sys.stdout.write(f"Installing locks/{lock}.lock: {len(read(path))} packages\n")
    sys.stdout.flush()
    # The locks are whole, so nothing is left to resolve; what asks for torch gets it from a lock of its own.
    command = [*PIP, "install", "--require-hashes", "--no-deps", *options, "-r", str(path)]
    return subprocess.run(command, check=False).returncode


def command_install() -> None:
    """Puts `imagegen` beside this environment's Python, for the project as it lies here; nothing is built."""
    (Path(sysconfig.get_path("purelib")) / "imagegen-here.pth").write_text(f"{REPOSITORY}\n")
    script = Path(sys.executable).with_name("imagegen")
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m imagegen_project "$@"\n')
    script.chmod(0o755)


def main(arguments: Sequence[str]) -> int:
    """Installs; answers pip's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("lock", choices=["all", "dev"])
    parser.add_argument("--torch", choices=["auto", "cpu", "cuda"], default="auto", help="the build of torch")
    options = parser.parse_args(arguments)
    if code := install(options.lock):
        return code
    command_install()
    [torch] = [
        package for package in read(lock_path("torch-cuda", root=REPOSITORY)) if package.name == "torch"
    ]
    offered = subprocess.run(
        [*PIP, "index", "versions", "torch"], capture_output=True, text=True, check=False
    ).stdout
    wanted = torch_wanted(options.torch, locked=torch.version, installed=installed_torch(), offered=offered)
    return install(wanted[0], *wanted[1]) if wanted else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
