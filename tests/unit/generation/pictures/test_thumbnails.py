"""Thumbnails: made on first ask, once, kept beside their picture and gone with it; and the names of downloads."""

import hashlib
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as configured
from PIL import Image
from rest_framework.test import APIClient

from generation.attempts import generation_claim
from generation.models import GeneratedImage, Generation, Worker
from generation.pictures import thumbnails
from generation.pictures.files import FinishedImage
from generation.pictures.thumbnails import thumbnail_of
from generation.upkeep.stored_files import storage_reconcile
from tests.support.disks import Disk
from tests.support.endings import succeed
from tests.support.factories import GenerationMaker

SIZE = (640, 320)


@pytest.fixture
def image(make: GenerationMaker, worker: Worker) -> GeneratedImage:
    """A finished picture that is wider than most thumbnails."""
    make(prompt="A large red circle, on white!", seed=1234)
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    drawn = Image.linear_gradient("L").resize(SIZE).convert("RGB")
    buffer = io.BytesIO()
    drawn.save(buffer, format="PNG")
    finished = FinishedImage(buffer.getvalue(), hashlib.sha256(drawn.tobytes()).hexdigest(), *SIZE, seed=1234)
    assert succeed(claimed, images=[finished])
    return claimed.images.get()


def folder_of(image: GeneratedImage) -> Path:
    return (Path(configured.MEDIA_ROOT) / str(image.file.name)).parent


@pytest.mark.parametrize(("width", "size"), [(128, (128, 64)), (256, (256, 128)), (512, (512, 256))])
def test_a_thumbnail_is_a_small_webp(
    api: APIClient, image: GeneratedImage, width: int, size: tuple[int, int]
) -> None:
    """In the picture's proportions, cached by the browser, under a tag of its own."""
    answer = api.get(f"{image.get_absolute_url()}?width={width}", headers={"Accept": "image/avif,image/*"})
    assert (answer.status_code, answer["Content-Type"]) == (200, "image/webp")
    assert Image.open(io.BytesIO(answer.content)).size == size
    assert answer["Cache-Control"] == "private, max-age=31536000, immutable"
    assert answer["ETag"] not in {api.get(image.get_absolute_url())["ETag"], None}
    again = api.get(f"{image.get_absolute_url()}?width={width}", headers={"If-None-Match": answer["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_it_is_made_once_and_kept(
    api: APIClient, image: GeneratedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second answer needs no picture."""
    first = api.get(f"{image.get_absolute_url()}?width=128")
    monkeypatch.setattr(thumbnails, "_drawn", None)
    assert api.get(f"{image.get_absolute_url()}?width=128").content == first.content


def test_many_who_ask_at_a_time_wait_for_one(image: GeneratedImage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody draws it a second time meanwhile."""
    drawn, made, goes_on = thumbnails._drawn, [], threading.Event()

    def slowly(data: bytes, width: int) -> bytes:
        made.append(width)
        assert goes_on.wait(30)
        return drawn(data, width)

    asked = threading.Semaphore(0)
    read = thumbnails.thumbnail_read

    def noted(image: GeneratedImage, width: int) -> bytes | None:
        found = read(image, width)
        asked.release()
        return found

    monkeypatch.setattr(thumbnails, "_drawn", slowly)
    monkeypatch.setattr(thumbnails, "thumbnail_read", noted)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(thumbnail_of, image, 128) for _ in range(4)]
        for _ in (*waiting, "the one that draws"):
            assert asked.acquire(timeout=30)
        goes_on.set()
        assert len({future.result() for future in waiting}) == 1
    assert made == [128]


def test_it_goes_with_its_picture(
    api: APIClient,
    image: GeneratedImage,
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Any,
) -> None:
    """And is no orphan before."""
    for width in (128, 512):
        assert api.get(f"{image.get_absolute_url()}?width={width}").status_code == 200
    monkeypatch.setattr("generation.upkeep.stored_files.ORPHAN_AGE", timedelta(hours=-1))
    assert storage_reconcile().files == ()
    assert len(list(folder_of(image).iterdir())) == 3
    with django_capture_on_commit_callbacks(execute=True):
        assert api.delete(f"/api/v1/generations/{image.generation_id}").status_code == 204
    assert list(folder_of(image).iterdir()) == []


@pytest.mark.parametrize("query", ["width=100", "width=", "width=128&width=256", "width=-128", "width=1e2"])
def test_another_width_is_refused_by_name(api: APIClient, image: GeneratedImage, query: str) -> None:
    """With those that there are."""
    answer = api.get(f"{image.get_absolute_url()}?{query}")
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["param"] == "width"
    assert "128, 256, 512" in answer.json()["detail"]


def test_a_full_storage_still_shows_it(api: APIClient, disk: Disk, image: GeneratedImage) -> None:
    """It is drawn each time until there is room."""
    disk.fill()
    answer = api.get(f"{image.get_absolute_url()}?width=128")
    assert answer.status_code == 200
    assert len(list(folder_of(image).iterdir())) == 1


def test_a_damaged_picture_has_none(api: APIClient, image: GeneratedImage) -> None:
    """Nor has a lost one."""
    file = Path(configured.MEDIA_ROOT) / str(image.file.name)
    file.write_bytes(bytes(image.size_bytes))
    for _ in range(2):
        answer = api.get(f"{image.get_absolute_url()}?width=128")
        assert (answer.status_code, answer.json()["code"]) == (404, "image_not_found")
        file.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A large red circle, on white!", 'filename="a-large-red-circle-on-white-1234'),
        ('../../etc/passwd"\r\nX: y', 'filename="etcpasswd-x-y-1234'),
        ("赤い 円", "filename*=utf-8''%E8%B5%A4%E3%81%84-%E5%86%86-1234"),
        ("!!!", 'filename="picture-1234'),
        ("word " * 400, f'filename="{"word-" * 12}1234'),
    ],
)
def test_a_download_is_named_after_its_prompt(
    api: APIClient, image: GeneratedImage, prompt: str, name: str
) -> None:
    """Whatever that holds."""
    Generation.objects.filter(pk=image.generation_id).update(prompt=prompt)
    for query, suffix in (("", "png"), ("?width=128", "webp")):
        said = api.get(f"{image.get_absolute_url()}{query}")["Content-Disposition"]
        assert said.startswith("inline; ")
        assert said.removesuffix('"') == f"inline; {name}.{suffix}"
    result = api.get(f"/api/v1/generations/{image.generation_id}/result", headers={"Accept": "image/png"})
    assert f"{name}.png" in result["Content-Disposition"]
