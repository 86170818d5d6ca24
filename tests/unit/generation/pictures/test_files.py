"""Input pictures in the storage: who sees them, when they are written, copied and removed."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.storage import default_storage
from django.db import OperationalError
from django.test import Client
from rest_framework.test import APIClient

from generation.attempts import generation_claim
from generation.choices import Kind, Status
from generation.models import Generation, Worker
from generation.services import generation_cancel
from tests.support.endings import succeed
from tests.support.factories import GenerationMaker, client_of
from tests.support.pictures import MASK, PICTURE, WITH_MASK, WITH_PICTURE, decoded, gradient, kept

BASE = "/api/v1/generations"


@pytest.mark.parametrize("path", ["input", "mask"])
def test_input_pictures_are_seen_by_those_who_see_the_generation(
    api: APIClient, stranger: User, staff: User, path: str
) -> None:
    """404 for a stranger, 401 for nobody; and a clear 404 where there is none or it is lost."""
    url = api.post(BASE, WITH_MASK).json()["urls"][path]
    assert APIClient().get(url).status_code == 401
    response = client_of(stranger).get(url)
    assert (response.status_code, response.json()["code"]) == (404, "generation_not_found")
    assert client_of(staff).get(url).status_code == 200
    without = api.post(BASE, {"prompt": "a"}).json()["id"]
    assert api.get(f"{BASE}/{without}/{path}").json()["code"] == "input_not_found"
    for name in kept():
        default_storage.delete(name)
    lost = api.get(url)
    assert (lost.status_code, lost.json()["code"]) == (404, "input_not_found")


def test_input_pictures_go_with_their_generation(
    api: APIClient, django_capture_on_commit_callbacks: Any
) -> None:
    """Both."""
    answer = api.post(BASE, WITH_MASK).json()
    assert len(kept()) == 2
    with django_capture_on_commit_callbacks(execute=True):
        assert api.delete(answer["urls"]["self"]).status_code == 204
    assert kept() == []


def test_a_row_that_cannot_be_written_keeps_no_file(api: APIClient, monkeypatch: Any) -> None:
    """All or nothing."""

    def away(*args: Any, **kwargs: Any) -> None:
        assert len(kept()) == 2
        raise OperationalError

    monkeypatch.setattr("generation.services.generation_admit", away)
    assert api.post(BASE, WITH_MASK).status_code == 503
    assert kept() == []


@pytest.mark.django_db(transaction=True)
def test_what_fails_after_the_commit_costs_no_file(api: APIClient, monkeypatch: Any) -> None:
    """From then on the files belong to a row."""

    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr("generation.transitions.event_publish", broken)
    assert api.post(BASE, WITH_MASK).status_code == 202
    generation = Generation.objects.get()
    assert kept() == sorted([generation.input_image, generation.mask_image])


def test_a_retry_copies_the_pictures(api: APIClient, django_capture_on_commit_callbacks: Any) -> None:
    """So that either generation can be deleted; the request is the same in every field."""
    request = WITH_MASK | {"strength": 0.5, "scheduler": "ddim", "clip_skip": 1, "output_format": "jpeg"}
    first = api.post(BASE, request | {"strict": True, "seed": 3, "steps": 8}).json()
    generation_cancel(generation=Generation.objects.get())
    second = api.post(f"{BASE}/{first['id']}/retry").json()
    assert len(kept()) == 4
    same = ("kind", "strength", "scheduler", "clip_skip", "output_format", "strict", "seed", "total_steps")
    assert [second[name] for name in same] == [first[name] for name in same]
    with django_capture_on_commit_callbacks(execute=True):
        assert api.delete(first["urls"]["self"]).status_code == 204
    assert decoded(api.get(second["urls"]["input"]).content).tobytes() == gradient(256, 256).tobytes()
    assert api.get(second["urls"]["mask"]).status_code == 200


def test_a_replay_copies_the_pictures(api: APIClient, worker: Worker) -> None:
    """And draws from the same ones."""
    first = api.post(BASE, WITH_PICTURE).json()
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    succeed(claimed)
    second = api.post(f"{BASE}/{first['id']}/replay").json()
    assert second["kind"] == "img2img"
    assert api.get(second["urls"]["input"]).content == api.get(first["urls"]["input"]).content


def test_a_retry_whose_picture_is_lost_is_refused(api: APIClient) -> None:
    """Nothing is written."""
    first = api.post(BASE, WITH_MASK).json()
    generation = Generation.objects.get()
    generation_cancel(generation=generation)
    default_storage.delete(generation.mask_image)
    response = api.post(f"{BASE}/{first['id']}/retry")
    assert (response.status_code, response.json()["code"]) == (404, "input_not_found")
    assert (Generation.objects.count(), kept()) == (1, [generation.input_image])


def test_the_admin_shows_input_pictures(make: GenerationMaker) -> None:
    """Where there are some."""
    staff = User.objects.create_superuser("root")
    pages = Client()
    pages.force_login(staff)
    plain = make()
    painted = make(kind=Kind.INPAINT, strength=1.0, input_image=PICTURE, mask_image=MASK)
    for generation, shown in ((plain, False), (painted, True)):
        page = pages.get(f"/admin/generation/generation/{generation.id}/change/").content.decode()
        for part in ("input", "mask"):
            assert (f"{BASE}/{generation.id}/{part}" in page) is shown
    assert painted.status == Status.QUEUED
