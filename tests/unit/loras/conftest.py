"""Fixtures of the adapters' tests: users and their clients, a folder for files, and makers of adapters."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from pytest_django import Settings

from loras.choices import LoraSource
from loras.models import Lora
from loras.processing import lora_process
from loras.services import lora_upload
from loras.signals import pinned_loras
from models_registry import hub
from tests.support.factories import LoraMaker
from tests.support.hub import HubDouble
from tests.support.lora_files import lora_bytes


@pytest.fixture(autouse=True)
def folder(settings: Settings, tmp_path: Path) -> Path:
    """Where this test's files lie."""
    settings.LORA_CACHE_DIR = tmp_path / "loras"
    return tmp_path / "loras"


@pytest.fixture
def owner(owner: User) -> User:
    """The user whose LoRA the tests make, the only ones there are: those that ship with the project are gone."""
    Lora.objects.filter(source=LoraSource.BUILTIN).delete()
    return owner


@pytest.fixture
def superuser(db: None) -> User:
    """Somebody who may do everything in the admin."""
    return User.objects.create_superuser("eve")


@pytest.fixture
def make_lora(owner: User) -> LoraMaker:
    """Makes an adapter of an upload, checked and present; `content` makes its file another one."""

    def lora(name: str = "mine", *, content: int = 0, family: str = "sd1", **changes: Any) -> Lora:
        file = SimpleUploadedFile("file.safetensors", lora_bytes(family, seed=content))
        made = lora_upload(owner=changes.pop("owner", owner), name=name, file=file)
        lora_process(lora_id=made.id)
        Lora.objects.filter(pk=made.pk).update(**changes)
        made.refresh_from_db()
        return made

    return lora


@pytest.fixture
def make_hub_lora(make_lora: LoraMaker) -> LoraMaker:
    """Makes a present adapter that could be had from the Hub again."""

    def lora(name: str = "mine", **changes: Any) -> Lora:
        return make_lora(name, source="hub", repository=f"org/{name}", weight_name="a.safetensors", **changes)

    return lora


@pytest.fixture
def pins() -> Iterator[set[Any]]:
    """Ids of adapters that work needs."""
    ids: set[Any] = set()

    def answer(sender: Any, **kwargs: Any) -> set[Any]:
        return ids

    pinned_loras.connect(answer)
    yield ids
    pinned_loras.disconnect(answer)


@pytest.fixture
def hub_double(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    """The Hub; nobody waits long for anything."""
    double = HubDouble()
    settings.HF_ENDPOINT = double.url
    settings.HF_TOKEN = ""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(hub, "PAUSES_S", (0.0,))
    monkeypatch.setattr(hub, "INFO_TIMEOUT_S", 0.5)
    monkeypatch.setattr(hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    yield double
    double.stop()
