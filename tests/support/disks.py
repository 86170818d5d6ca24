"""Disks that are full or read-only: small ones of their own, in memory."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.service import wait_for


@contextmanager
def small_disk(folder: Path, *, megabytes: int = 4) -> Iterator["Disk"]:
    """A disk of that size in this folder. Skips the test where nothing may be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    done = _mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder))
    if done.returncode != 0:
        pytest.skip(f"nothing may be mounted here: {done.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Disk:
    """A mounted disk, and the ways of taking its room."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.filler = folder / "filler"

    def fill(self) -> None:
        """Leaves no byte."""
        with self.filler.open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def make_room(self) -> None:
        """Undoes that."""
        self.filler.unlink()

    def read_only(self, on: bool = True) -> None:  # noqa: FBT001, FBT002
        """Takes no writes any more, or takes them again."""
        options = f"remount,{'ro' if on else 'rw'}"
        # Busy while somebody writes.
        wait_for(lambda: _mount("-o", options, str(self.folder)).returncode == 0, options)

    def files(self) -> list[str]:
        """Everything on it but what fills it."""
        files = (path for path in self.folder.rglob("*") if path.is_file() and path != self.filler)
        return sorted(str(path.relative_to(self.folder)) for path in files)


def _mount(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
