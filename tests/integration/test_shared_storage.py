"""Pictures in S3-compatible storage, on a real server of that protocol."""

import hashlib
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from django.contrib.auth.models import User
from django.core.files.storage import default_storage
from django.test import Client
from pytest_django import Settings

from generation.errors import ImageNotFoundError
from generation.models import Generation
from generation.pictures.files import image_read
from generation.services import generation_delete
from imagegen_project.auth.services import token_create
from tests.support.buckets import KEYS, TTL_S
from tests.support.endings import drawn_picture

pytestmark = pytest.mark.django_db(transaction=True)


def test_pictures_are_read_back_through_the_api(in_bucket: Generation) -> None:
    """From any host: nothing lies on this one's disk."""
    image = in_bucket.images.get()
    token = token_create(user=in_bucket.owner, expires_in=None)
    headers = {"Authorization": f"Bearer {token}"}
    response = Client().get(f"/api/v1/generations/{in_bucket.id}/images/0", headers=headers)
    assert response.content == drawn_picture(seed=in_bucket.seed).data
    assert hashlib.sha256(response.content).hexdigest() == image.sha256


def test_the_services_own_signed_addresses_open_as_those_of_a_disk_do(in_bucket: Generation) -> None:
    """Without a token, whole or in part, from the bucket."""
    url = in_bucket.images.get().signed_url()
    assert Client().get(url).content == drawn_picture(seed=in_bucket.seed).data
    assert Client().get(url, headers={"Range": "bytes=1-3"}).content == b"PNG"


def test_signed_addresses_are_short_lived_and_for_the_owner(in_bucket: Generation) -> None:
    """Whoever has one needs no token; nobody else gets one."""
    path = f"/api/v1/generations/{in_bucket.id}/images/0?redirect=1"
    stranger = token_create(user=User.objects.create_user("bob"), expires_in=None)
    owner = token_create(user=in_bucket.owner, expires_in=None)
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
    assert hashlib.sha256(picture).hexdigest() == in_bucket.images.get().sha256


def test_deleting_empties_the_bucket(in_bucket: Generation) -> None:
    name = str(in_bucket.images.get().file.name)
    assert default_storage.exists(name)
    generation_delete(generation=in_bucket)
    assert not default_storage.exists(name)


def test_a_lost_picture_is_said_to_be_lost(in_bucket: Generation) -> None:
    image = in_bucket.images.get()
    default_storage.delete(str(image.file.name))
    with pytest.raises(ImageNotFoundError):
        image_read(image)


def test_local_pictures_have_no_signed_address(settings: Settings) -> None:
    """They are served through the API alone."""
    settings.MEDIA_IS_SHARED = False
    generation = Generation(id="01a2069e-43ea-7391-b6d0-c7cfd413799f")
    assert generation.images.model(file="x.png").storage_url() == ""
