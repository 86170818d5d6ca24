"""Pictures in S3-compatible storage, on a real server of that protocol."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from pytest_django import Settings

from generation.attempts import generation_claim
from generation.models import Generation
from tests.support.endings import succeed
from tests.support.factories import create_generation, make_worker

BUCKET = "pictures"
TTL_S = 120
KEYS = {"access_key": "tests", "secret_key": "only-for-tests"}


@pytest.fixture(scope="session")
def bucket_server() -> Iterator[str]:
    """An S3 server with one bucket."""
    # Most tests need neither, and every process would import them.
    import boto3
    from moto.server import ThreadedMotoServer

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
def in_bucket(bucket_server: str, settings: Settings) -> Generation:
    """One that succeeded, its picture in the bucket."""
    options: dict[str, Any] = {
        "bucket_name": BUCKET,
        "endpoint_url": bucket_server,
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
