"""Fixtures of all unit tests: folders, users and their clients, generations, workers and LoRA."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.core.files.uploadedfile import SimpleUploadedFile
from pytest_django import Settings
from rest_framework.test import APIClient

from generation.models import Generation, Worker
from generation.pictures import availability
from loras.models import Lora
from loras.processing import lora_process
from loras.services import lora_upload
from loras.signals import pinned_loras
from tests.support.disks import Disk, small_disk
from tests.support.factories import GenerationMaker, LoraMaker, client_of, create_generation, make_worker
from tests.support.hub import HubDouble
from tests.support.lora_files import lora_bytes


@pytest.fixture(scope="session")
def _storages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Paths of folders that whoever writes there makes: few tests store something."""
    folder = tmp_path_factory.mktemp("storages")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_storage(settings: Settings, _storages: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a storage of its own, empty at first, that nobody has looked at."""
    storage = next(_storages)
    settings.MEDIA_ROOT = storage / "media"
    settings.LORA_CACHE_DIR = storage / "loras"
    monkeypatch.setattr(availability, "_watch", availability._Watch())


@pytest.fixture
def disk(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A small disk for pictures, looked at whenever somebody asks."""
    monkeypatch.setattr(availability, "LOOK_EVERY_S", 0.0)
    with small_disk(tmp_path / "disk") as mounted:
        settings.MEDIA_ROOT = mounted.folder
        yield mounted


@pytest.fixture
def owner(db: None) -> User:
    """The user whose generations and LoRA the tests make."""
    return User.objects.create_user("ada")


@pytest.fixture
def stranger(db: None) -> User:
    """Another ordinary user."""
    return User.objects.create_user("bob")


@pytest.fixture
def staff(db: None) -> User:
    """A member of staff."""
    return User.objects.create_user("eve", is_staff=True)


@pytest.fixture
def superuser(db: None) -> User:
    """Somebody who may do everything in the admin."""
    return User.objects.create_superuser("root")


@pytest.fixture
def api(owner: User) -> APIClient:
    """The owner's client."""
    return client_of(owner)


@pytest.fixture
def make(owner: User) -> GenerationMaker:
    """Makes a queued generation."""

    def generation(**changes: Any) -> Generation:
        return create_generation(**{"owner": owner, "seed": 7} | changes)

    return generation


@pytest.fixture
def worker(db: None) -> Worker:
    """A live GPU worker's row."""
    return make_worker("worker-1")


@pytest.fixture
def lora_folder(settings: Settings) -> Path:
    """Where this test's LoRA lie."""
    folder: Path = settings.LORA_CACHE_DIR
    return folder


@pytest.fixture
def make_lora(owner: User) -> LoraMaker:
    """Makes a LoRA of an upload, checked and present; `content` makes its file another one."""

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
    """Makes a present LoRA that could be had from the Hub again."""

    def lora(name: str = "mine", **changes: Any) -> Lora:
        return make_lora(name, source="hub", repository=f"org/{name}", weight_name="a.safetensors", **changes)

    return lora


@pytest.fixture
def pins() -> Iterator[set[Any]]:
    """Ids of LoRA that work needs."""
    ids: set[Any] = set()

    def answer(sender: Any, **kwargs: Any) -> set[Any]:
        return ids

    pinned_loras.connect(answer)
    yield ids
    pinned_loras.disconnect(answer)


@pytest.fixture
def hub(settings: Settings, empty_redis: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    """A Hub that knows no token yet, which the settings point to; nothing is cached."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # a proxy of the machine's is not in question
    double = HubDouble()
    settings.HF_ENDPOINT = double.url
    settings.HUB_TIMEOUT_S = 0.5
    cache.clear()
    yield double
    double.stop()


@pytest.fixture
def bare_api(settings: Settings) -> APIClient:
    """A client of the routes in tests/unit/imagegen_project/auth/urls.py."""
    settings.ROOT_URLCONF = "tests.unit.imagegen_project.auth.urls"
    return APIClient(raise_request_exception=True)
