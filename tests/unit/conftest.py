"""Fixtures of all unit tests: users, their clients, generations and workers."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from generation.models import Generation, Worker
from models_registry.models import Checkpoint
from tests.support.factories import GenerationMaker, client_of, create_generation, make_worker


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
        return create_generation(**values | changes)

    return generation


@pytest.fixture
def worker(db: None) -> Worker:
    """A live GPU worker's row."""
    return make_worker("worker-1")
