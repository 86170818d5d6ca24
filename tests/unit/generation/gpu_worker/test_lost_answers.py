"""PostgreSQL goes away between a commit and its answer: nobody knows, and nothing may be lost or left over."""

from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as configured
from django.core.files.storage import default_storage
from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

from generation.attempts import generation_claim
from generation.choices import Kind, Status
from generation.gpu_worker import run as runner
from generation.models import Generation, Worker
from generation.pictures.files import image_read
from tests.support.endings import drawn_picture, succeed
from tests.support.factories import GenerationMaker

pytestmark = pytest.mark.django_db(transaction=True)


def lose_an_answer(monkeypatch: pytest.MonkeyPatch, *, committed: bool) -> None:
    """Lets the next transaction be committed or not, and its connection break before anybody hears which."""
    real = BaseDatabaseWrapper._commit
    lost: list[int] = []

    def commit(self: Any) -> None:
        if lost:
            real(self)
            return
        lost.append(1)
        (real if committed else BaseDatabaseWrapper._rollback)(self)
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(BaseDatabaseWrapper, "_commit", commit)


def files() -> list[str]:
    """Everything in the storage, without its folders."""
    return sorted(path.name for path in Path(configured.MEDIA_ROOT).rglob("*") if path.is_file())


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "rolled-back"])
def test_an_end_whose_answer_is_lost_is_made_once(
    make: GenerationMaker, worker: Worker, monkeypatch: pytest.MonkeyPatch, committed: bool  # noqa: FBT001
) -> None:
    """The second try finds what the first one did, with its picture, and no other is left over."""
    make()
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    monkeypatch.setattr(runner, "WRITE_PAUSES_S", (0.0,))
    lose_an_answer(monkeypatch, committed=committed)
    assert runner._persist(lambda: succeed(claimed))
    row = Generation.objects.get()
    assert row.status == Status.SUCCEEDED
    assert image_read(row.images.get()) == drawn_picture().data
    assert files() == ["1-0.png"]


def test_a_stored_request_whose_answer_is_lost_keeps_its_picture(
    make: GenerationMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It will be drawn, whatever the client was told."""
    lose_an_answer(monkeypatch, committed=True)
    with pytest.raises(OperationalError):
        make(kind=Kind.IMG2IMG, input_image=drawn_picture().data, strength=0.5)
    assert default_storage.exists(Generation.objects.get().input_image)
