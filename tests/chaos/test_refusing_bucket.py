"""S3-compatible storage that refuses, or that is away."""

import socket
from collections.abc import Iterator

import pytest
from botocore.config import Config
from django.core.files.storage import default_storage
from django.test import Client
from pytest_django import Settings

from generation.models import Generation
from generation.pictures import availability
from generation.pictures.availability import StorageState, storage_state
from imagegen_project.auth.services import token_create
from tests.support.pictures import WITH_PICTURE

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def refusing(in_bucket: Generation, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same storage, behind an address where nobody listens any more."""
    monkeypatch.setattr(availability, "_watch", availability._Watch())
    monkeypatch.setattr(availability, "LOOK_EVERY_S", 0.0)
    default = settings.STORAGES["default"]
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        away = {
            "endpoint_url": f"http://127.0.0.1:{nobody.getsockname()[1]}",
            "client_config": Config(signature_version="s3v4", retries={"total_max_attempts": 1}),
        }
        settings.STORAGES = settings.STORAGES | {
            "default": {"BACKEND": default["BACKEND"], "OPTIONS": default["OPTIONS"] | away}
        }
        yield
    settings.STORAGES = settings.STORAGES | {"default": default}


@pytest.mark.usefixtures("refusing")
def test_a_storage_that_is_away_is_said_to_be(in_bucket: Generation) -> None:
    """A picture cannot be had now, which is no loss; one cannot be given; a deletion is done, and readiness knows."""
    headers = {"Authorization": f"Bearer {token_create(user=in_bucket.owner, expires_in=None)}"}
    client = Client(raise_request_exception=False)
    url = f"/api/v1/generations/{in_bucket.id}"
    unreadable = client.get(f"{url}/images/0", headers=headers)
    assert (unreadable.status_code, unreadable.json()["code"]) == (503, "storage_unavailable")
    refused = client.post("/api/v1/generations", WITH_PICTURE, "application/json", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (507, "storage_unavailable")
    assert refused["Retry-After"]
    assert Generation.objects.count() == 1
    ready = client.get("/health/ready").json()
    assert (ready["status"], ready["checks"]["storage"]) == ("degraded", "unreachable")
    assert client.delete(url, headers=headers).status_code == 204
    assert not Generation.objects.exists()


def test_a_storage_that_refused_a_write_is_tried_with_one(
    in_bucket: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before that it is only asked whether it answers; nothing of either stays in the bucket."""
    monkeypatch.setattr(availability, "_watch", availability._Watch())
    monkeypatch.setattr(availability, "LOOK_EVERY_S", 0.0)
    assert storage_state() is StorageState.OK
    availability.storage_refused(OSError("refused"))
    assert storage_state() is StorageState.OK
    assert not default_storage.exists(availability.PROBE_NAME)
    assert default_storage.exists(str(in_bucket.images.get().file.name))
