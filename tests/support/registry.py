"""Fixtures of the registry: a Hub on a loopback port, a repository on it, and a row that names it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from pytest_django import Settings

from models_registry import downloads, hub
from models_registry.models import Checkpoint
from tests.support.hub import HubDouble
from tests.support.hub_repository import HubRepository
from tests.support.repositories import write_repository


@pytest.fixture
def hub_double(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    """The Hub, and an empty model cache; nobody waits long for anything."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # a proxy of the machine's is not in question
    double = HubDouble()
    settings.HF_ENDPOINT = double.url
    settings.HF_TOKEN = ""
    settings.MODEL_CACHE_DIR = tmp_path / "models"
    monkeypatch.setattr(hub, "PAUSES_S", (0.0,))
    monkeypatch.setattr(hub, "INFO_TIMEOUT_S", 0.5)
    monkeypatch.setattr(hub, "CHUNK_BYTES", 65_536)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr(downloads, "PROGRESS_EVERY_S", 0.0)
    monkeypatch.setattr(downloads, "DISK_MARGIN_BYTES", 0)
    yield double
    double.stop()


@pytest.fixture
def repository(hub_double: HubDouble, tmp_path: Path) -> HubRepository:
    """The repository of sd-1-5."""
    return HubRepository(
        hub_double, "stable-diffusion-v1-5/stable-diffusion-v1-5", write_repository(tmp_path / "repository")
    )


@pytest.fixture
def row(hub_double: HubDouble, transactional_db: None) -> Checkpoint:
    """sd-1-5, absent."""
    return Checkpoint.objects.get(id="sd-1-5")
