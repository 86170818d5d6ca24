"""Fixtures of the job's unit tests."""

from pathlib import Path

import pytest
from pytest_django import Settings


@pytest.fixture(autouse=True)
def _own_storage(settings: Settings, tmp_path: Path) -> None:
    """Every test has a storage of its own, empty at first."""
    settings.MEDIA_ROOT = tmp_path / "media"
