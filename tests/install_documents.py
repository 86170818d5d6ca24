"""`python -m tests.install_documents`: the documents' installing blocks in a clean copy, and the package outside of it.

`make test-install`, a step of its own since it downloads and installs everything once more. Prints how long each took.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.documents import REPOSITORY, blocks

LIMIT_S = 900.0
POLL_S = 0.5


def say(text: str) -> None:
    """A line at once, so that what hangs is seen."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def copy_clean(folder: Path) -> None:
    """What git has, and nothing that lies beside it."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout
    for name in filter(None, names.decode().split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, folder / name)


def run(text: str, folder: Path, **variables: str) -> None:
    """Pastes lines into a shell; a service that they start and leave running is stopped once it has an address."""
    data_dir = folder / ".imagegen"
    environment = {**os.environ, "DATA_DIR": str(data_dir), **variables}
    began = time.monotonic()
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", text], cwd=folder, env=environment, start_new_session=True
    )
    try:
        while process.poll() is None:
            if time.monotonic() - began > LIMIT_S:
                sys.exit(f"not done within {LIMIT_S:.0f} s:\n{text}")
            if (data_dir / "address").exists():
                subprocess.run(
                    [str(folder / ".venv/bin/imagegen"), "demo", "--stop"], env=environment, check=True
                )
            time.sleep(POLL_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
    if process.returncode != 0:
        sys.exit(f"ended with {process.returncode}:\n{text}")
    say(f"{time.monotonic() - began:.1f} s: {text.strip().splitlines()[-1]}")


def main() -> None:
    """Runs all of them, then a wheel's `imagegen demo --once` in an empty folder."""
    with tempfile.TemporaryDirectory(prefix="imagegen-documents-") as name:
        clean, elsewhere = Path(name) / "clean", Path(name) / "elsewhere"
        for folder in (clean, elsewhere):
            folder.mkdir()
        copy_clean(clean)
        for block in blocks():
            if block.need == "install":
                say(f"{block.document}:{block.line}")
                run(block.text, clean)
        installed = elsewhere / "package"
        python = clean / ".venv/bin/python"
        run(f"{python} -m pip install --quiet --no-deps --target {installed} {clean}", elsewhere)
        shutil.rmtree(clean / "imagegen_project")  # so that only the package can be what runs
        once = f'{python} -m imagegen_project demo --once "a blue star" --out star.png && test -s star.png'
        run(once, elsewhere, PYTHONPATH=str(installed))


if __name__ == "__main__":
    main()
