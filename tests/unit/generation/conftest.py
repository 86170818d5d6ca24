"""Fixtures of the job's unit tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django import Settings

from generation.pictures import availability
from tests.support.disks import Disk, small_disk


@pytest.fixture(autouse=True)
def _own_storage(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a storage of its own, empty at first, that nobody has looked at."""
    settings.MEDIA_ROOT = tmp_path / "media"
    monkeypatch.setattr(availability, "_watch", availability._Watch())


@pytest.fixture
def disk(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A small disk for pictures, looked at whenever somebody asks."""
    monkeypatch.setattr(availability, "LOOK_EVERY_S", 0.0)
    with small_disk(tmp_path / "disk") as mounted:
        settings.MEDIA_ROOT = mounted.folder
        yield mounted
