"""Backup and restore, with the commands that docs/operations.md gives."""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from pytest_django import Settings

from generation.attempts import generation_claim
from generation.models import GeneratedImage, Generation
from imagegen_project import env
from imagegen_project.auth.services import token_create
from imagegen_project.standalone.servers import EmbeddedPostgres
from loras.cache import cache_repair
from loras.choices import LoraState
from loras.files import lora_path
from loras.models import Lora
from loras.processing import lora_process
from loras.services import lora_upload
from tests.support.endings import succeed
from tests.support.factories import create_generation, make_worker
from tests.support.lora_files import lora_bytes

pytestmark = pytest.mark.django_db(transaction=True)

OPERATIONS = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()


def database_url() -> str:
    """The database of the suite as a command takes it."""
    values = connection.settings_dict
    host = quote(str(values["HOST"]), safe="")
    port = f"&port={values['PORT']}" if values["PORT"] else ""
    return f"postgresql://{values['USER']}:{quote(values['PASSWORD'])}@/{values['NAME']}?host={host}{port}"


def run(name: str, *arguments: str) -> None:
    """One of PostgreSQL's programs."""
    programs = EmbeddedPostgres(env.DATA_DIR)._programs  # of the server's own version
    command = [str(programs / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def tar(*arguments: str) -> None:
    """As in the containers."""
    subprocess.run(["tar", *arguments], timeout=120, check=True)


@contextmanager
def wiped_database() -> Iterator[None]:
    """An empty schema for the block to fill; the tests that follow get the old one when it does not."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER SCHEMA public RENAME TO put_aside")
        cursor.execute("CREATE SCHEMA public")
        try:
            yield
        except BaseException:
            cursor.execute("DROP SCHEMA public CASCADE")
            cursor.execute("ALTER SCHEMA put_aside RENAME TO public")
            raise
        cursor.execute("DROP SCHEMA put_aside CASCADE")


def test_what_was_wiped_comes_back(settings: Settings, tmp_path: Path) -> None:
    """Rows, tokens, pictures and uploaded adapters, which still match their SHA-256."""
    data = tmp_path / "data"
    settings.MEDIA_ROOT, settings.LORA_CACHE_DIR = data / "media", data / "models" / "loras"
    owner = User.objects.create_user("ada")
    uploaded = lora_upload(
        owner=owner, name="mine", file=SimpleUploadedFile("file.safetensors", lora_bytes("sd1"))
    )
    lora_process(lora_id=uploaded.id)
    token = token_create(user=owner, expires_in=None)
    worker = make_worker("w1")
    for colour in ("red", "blue"):
        create_generation(owner=owner, prompt=colour)
        claimed = generation_claim(worker=worker)
        assert claimed is not None
        assert succeed(claimed, colour=colour)
    expected = {str(row.generation_id): row.sha256 for row in GeneratedImage.objects.all()}
    assert len(expected) == 2

    dump, files = tmp_path / "imagegen.dump", tmp_path / "files.tar"
    run("pg_dump", "--format=custom", f"--file={dump}", database_url())
    tar("--create", f"--file={files}", f"--directory={data}", "media", "models/loras")

    shutil.rmtree(data)
    with wiped_database():
        run("pg_restore", "--exit-on-error", "--no-owner", f"--dbname={database_url()}", str(dump))
    data.mkdir()
    tar("--extract", f"--file={files}", f"--directory={data}")

    assert Generation.objects.count() == 2
    client = Client(headers={"Authorization": f"Bearer {token}"})
    for generation_id, sha256 in expected.items():
        picture = client.get(f"/api/v1/generations/{generation_id}/images/0").content
        assert hashlib.sha256(picture).hexdigest() == sha256
    cache_repair()
    adapter = Lora.objects.get(name="mine")
    assert adapter.state == LoraState.PRESENT
    assert hashlib.sha256(lora_path(adapter).read_bytes()).hexdigest() == adapter.sha256


@pytest.mark.parametrize(
    "command",
    [
        "pg_dump --format=custom",
        "pg_restore --exit-on-error --no-owner",
        "tar --create --directory=/data media models/loras",
        "tar --extract --directory=/data",
    ],
)
def test_the_documented_commands_are_these(command: str) -> None:
    assert command in OPERATIONS
