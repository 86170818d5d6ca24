"""Pictures in S3-compatible storage, on a real server of that protocol."""

import hashlib
import socket
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import boto3
import httpx2
import pytest
from botocore.config import Config
from django.contrib.auth.models import User
from django.core.files.storage import default_storage
from django.test import Client
from moto.server import ThreadedMotoServer
from pytest_django import Settings

from generation.attempts import generation_claim
from generation.errors import ImageNotFoundError
from generation.models import Generation
from generation.pictures import availability
from generation.pictures.availability import StorageState, storage_state
from generation.pictures.files import image_read
from generation.services import generation_delete
from imagegen_project.auth.services import token_create
from tests.support.endings import drawn_picture, succeed
from tests.support.factories import create_generation, make_worker
from tests.support.pictures import WITH_PICTURE

pytestmark = pytest.mark.django_db(transaction=True)

BUCKET = "pictures"
TTL_S = 120
KEYS = {"access_key": "tests", "secret_key": "only-for-tests"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """An S3 server with one bucket."""
    moto = ThreadedMotoServer(port=0)
    moto.start()
    host, port = moto.get_host_and_port()
    address = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id=KEYS["access_key"],
        aws_secret_access_key=KEYS["secret_key"],
    )
    client.create_bucket(Bucket=BUCKET)
    yield address
    moto.stop()


@pytest.fixture
def generation(server: str, settings: Settings) -> Generation:
    """One that succeeded, its picture in the bucket."""
    options = {
        "bucket_name": BUCKET,
        "endpoint_url": server,
        "region_name": "us-east-1",
        "querystring_expire": TTL_S,
        "signature_version": "s3v4",
        "file_overwrite": True,
        **KEYS,
    }
    settings.STORAGES = settings.STORAGES | {
        "default": {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}
    }
    settings.MEDIA_IS_SHARED = True
    create_generation(owner=User.objects.create_user("ada"))
    claimed = generation_claim(worker=make_worker("w1"))
    assert claimed is not None
    assert succeed(claimed)
    return claimed


def test_pictures_are_read_back_through_the_api(generation: Generation) -> None:
    """From any host: nothing lies on this one's disk."""
    image = generation.images.get()
    token = token_create(user=generation.owner, expires_in=None)
    headers = {"Authorization": f"Bearer {token}"}
    response = Client().get(f"/api/v1/generations/{generation.id}/images/0", headers=headers)
    assert response.content == drawn_picture(seed=generation.seed).data
    assert hashlib.sha256(response.content).hexdigest() == image.sha256


def test_the_services_own_signed_addresses_open_as_those_of_a_disk_do(generation: Generation) -> None:
    """Without a token, whole or in part, from the bucket."""
    url = generation.images.get().signed_url()
    assert Client().get(url).content == drawn_picture(seed=generation.seed).data
    assert Client().get(url, headers={"Range": "bytes=1-3"}).content == b"PNG"


def test_signed_addresses_are_short_lived_and_for_the_owner(generation: Generation) -> None:
    """Whoever has one needs no token; nobody else gets one."""
    path = f"/api/v1/generations/{generation.id}/images/0?redirect=1"
    stranger = token_create(user=User.objects.create_user("bob"), expires_in=None)
    owner = token_create(user=generation.owner, expires_in=None)
    assert Client().get(path).status_code == 401
    assert Client().get(path, headers={"Authorization": f"Bearer {stranger}"}).status_code == 404
    response = Client().get(path, headers={"Authorization": f"Bearer {owner}"})
    assert response.status_code == 302
    assert "no-store" in response["Cache-Control"]
    query = parse_qs(urlsplit(response["Location"]).query)
    assert query["X-Amz-Expires"] == [str(TTL_S)]
    assert KEYS["secret_key"] not in response["Location"]
    with httpx2.Client(trust_env=False) as http:
        picture = http.get(response["Location"]).content
    assert hashlib.sha256(picture).hexdigest() == generation.images.get().sha256


def test_deleting_empties_the_bucket(generation: Generation) -> None:
    name = str(generation.images.get().file.name)
    assert default_storage.exists(name)
    generation_delete(generation=generation)
    assert not default_storage.exists(name)


def test_a_lost_picture_is_said_to_be_lost(generation: Generation) -> None:
    image = generation.images.get()
    default_storage.delete(str(image.file.name))
    with pytest.raises(ImageNotFoundError):
        image_read(image)


def test_local_pictures_have_no_signed_address(settings: Settings) -> None:
    """They are served through the API alone."""
    settings.MEDIA_IS_SHARED = False
    generation = Generation(id="01a2069e-43ea-7391-b6d0-c7cfd413799f")
    assert generation.images.model(file="x.png").storage_url() == ""


@pytest.fixture
def refusing(generation: Generation, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
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
def test_a_storage_that_is_away_is_said_to_be(generation: Generation) -> None:
    """A picture cannot be had now, which is no loss; one cannot be given; a deletion is done, and readiness knows."""
    headers = {"Authorization": f"Bearer {token_create(user=generation.owner, expires_in=None)}"}
    client = Client(raise_request_exception=False)
    url = f"/api/v1/generations/{generation.id}"
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
    generation: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before that it is only asked whether it answers; nothing of either stays in the bucket."""
    monkeypatch.setattr(availability, "_watch", availability._Watch())
    monkeypatch.setattr(availability, "LOOK_EVERY_S", 0.0)
    assert storage_state() is StorageState.OK
    availability.storage_refused(OSError("refused"))
    assert storage_state() is StorageState.OK
    assert not default_storage.exists(availability.PROBE_NAME)
    assert default_storage.exists(str(generation.images.get().file.name))
