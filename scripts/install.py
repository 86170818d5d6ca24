"""Installs a lock into the environment that runs this, and the build of torch that belongs there.

Every file is checked against the lock's hashes before it is installed. Needs only Python and its pip.
"""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
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


# About what a lock's files take to download, in MB, on Linux (those of torch by the sizes of the images): said before
# it begins, so that nobody has to guess.
DOWNLOAD_MB = {"all": 250, "dev": 150, "torch-cpu": 190, "torch-cuda": 2700}
# What a fast home line brings.
LINE_MB_S = 20
# And how long unpacking and compiling takes pip on a core that does nothing else.
UNPACK_S = {"all": 65, "dev": 55, "torch-cpu": 15, "torch-cuda": 120}


def pip_has_settings() -> bool:
    """Whether pip is told where to look; uv would not know of it, and might bring another build, or none."""
    told = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=False).stdout
    return bool(re.search(r"\.(\S*index-url|find-links|no-index|proxy|cert)=", told))


def installer(lock: str, options: Sequence[str]) -> list[str]:
    """What installs a lock: uv, where it is there and finds the same files as pip would, else pip.

    uv reads no setting of pip's. With none, PyPI and the address named for the CPU build of torch are the same to both.
    """
    uv = shutil.which("uv")
    same = lock in ("all", "dev") or "--index-url" in options
    if uv and same and not pip_has_settings():
        return [uv, "pip", "install", "--python", sys.executable]
    return [*PIP, "install"]


def install(lock: str, *options: str) -> int:
    """Installs what a lock holds, and shows pip's progress; answers its exit code."""
    path = lock_path(lock, root=REPOSITORY)
    megabytes, unpack_s = DOWNLOAD_MB[lock], UNPACK_S[lock]
    sys.stdout.write(
        f"Installing locks/{lock}.lock: {len(read(path))} packages, about {megabytes} MB to download where none is "
        f"cached ({megabytes / LINE_MB_S:.0f} s at {LINE_MB_S} MB/s), and {unpack_s} s to unpack on an idle core\n"
    )
    sys.stdout.flush()
    began = time.monotonic()
    # The locks are whole, so nothing is left to resolve; what asks for torch gets it from a lock of its own.
    command = [*installer(lock, options), "--require-hashes", "--no-deps", *options, "-r", str(path)]
    code = subprocess.run(command, check=False).returncode
    sys.stdout.write(
        f"locks/{lock}.lock: {'installed' if code == 0 else 'failed'} after {time.monotonic() - began:.0f} s\n"
    )
    return code


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
