"""Fixtures of the job's unit tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from generation.models import Generation, Worker
from generation.services import generation_create
from models_registry.models import Checkpoint

GenerationMaker = Callable[..., Generation]


@pytest.fixture(autouse=True)
def _own_storage(settings: Settings, tmp_path: Path) -> None:
    """Every test has a storage of its own, empty at first."""
    settings.MEDIA_ROOT = tmp_path / "media"


@pytest.fixture
def owner(db: None) -> User:
    """The user whose generations the tests make."""
    return User.objects.create_user("ada")


@pytest.fixture
def stranger(db: None) -> User:
    """Another ordinary user."""
    return User.objects.create_user("bob")


@pytest.fixture
def staff(db: None) -> User:
    """A member of staff."""
    return User.objects.create_user("eve", is_staff=True)


def client_of(user: User) -> APIClient:
    """An API client that is this user."""
    client = APIClient()
    client.force_authenticate(user)
    return client


@pytest.fixture
def api(owner: User) -> APIClient:
    """The owner's client."""
    return client_of(owner)


@pytest.fixture
def make(owner: User) -> GenerationMaker:
    """Makes a queued generation."""

    def generation(**changes: Any) -> Generation:
        values: dict[str, Any] = {
            "owner": owner,
            "checkpoint": Checkpoint.objects.get(id="builtin"),
            "prompt": "a red circle",
            "width": 256,
            "height": 256,
            "num_inference_steps": 4,
            "guidance_scale": 4.0,
            "timeout_s": 60,
            "seed": 7,
        }
        return generation_create(**values | changes)

    return generation


@pytest.fixture
def worker(db: None) -> Worker:
    """A live GPU worker's row."""
    return make_worker("worker-1")


def make_worker(name: str, **values: Any) -> Worker:
    """A live GPU worker's row."""
    return Worker.objects.create(name=name, hostname="host", pid=1, heartbeat_at=timezone.now(), **values)
