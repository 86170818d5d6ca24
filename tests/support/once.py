"""What one process of a run makes for all of them."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path


def run_folder(name: str) -> Path:
    """A place below the folder of the process that started the run, which goes when the run ends."""
    return Path(os.environ["TESTS_RUN_DIR"]) / name


def made_once(folder: Path, make: Callable[[], object]) -> None:
    """Has the first process that asks make what belongs into a folder of the run; the others wait for it."""
    folder.parent.mkdir(exist_ok=True)
    done = folder.with_name(f"{folder.name}.done")
    with folder.with_name(f"{folder.name}.making").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not done.exists():
            make()
            done.touch()
