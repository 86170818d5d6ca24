"""A picture that is drawn while the storage takes none: held, offered again, and drawn once."""

from collections.abc import Callable
from typing import Any

import pytest

from generation.attempts import generation_claim
from generation.choices import ErrorCode
from generation.engine.specs import BatchResult, Picture
from generation.errors import FailedError
from generation.feed.publisher import Publisher
from generation.gpu_worker import run as runner
from generation.gpu_worker.run import CANCELED, HAND_BACK, Run
from generation.models import Generation, Worker
from generation.pictures.files import image_read
from generation.selectors import generation_result
from generation.services import generation_cancel
from tests.support.disks import Disk
from tests.support.endings import drawn_picture
from tests.support.factories import GenerationMaker
from tests.support.pictures import PICTURE
from tests.support.runs import run_alone


class OnceDrawingEngine:
    """Draws a small picture, and counts."""

    def __init__(self) -> None:
        self.drawn = 0

    def run(self, *_: Any, **__: Any) -> BatchResult:
        self.drawn += 1
        picture = Picture(**vars(drawn_picture()))
        return BatchResult(pictures=[picture], environment={"weights_sha256": "0" * 64}, memory_peak_mb=1)


class WatchedRun(Run):
    """Does something the third time it is asked whether to stop: while it waits."""

    def __init__(self, generation: Generation, third_time: Callable[["WatchedRun"], None]) -> None:
        super().__init__(generation)
        self.third_time = third_time
        self.asked = 0

    def should_stop(self) -> str | None:
        self.asked += 1
        if self.asked == 3:
            self.third_time(self)
        return super().should_stop()


@pytest.fixture
def engine() -> OnceDrawingEngine:
    """One that has drawn nothing."""
    return OnceDrawingEngine()


@pytest.fixture
def claimed(make: GenerationMaker, worker: Worker, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Generation:
    """A claimed generation whose picture finds a full disk."""
    monkeypatch.setattr(runner, "STORAGE_PAUSE_S", 0.0)
    make()
    generation = generation_claim(worker=worker)
    assert generation is not None
    disk.fill()
    return generation


def draw(run: Run, engine: Any) -> str | None:
    publisher = Publisher()
    try:
        return run_alone(run, engine, publisher)
    finally:
        publisher.close()


def test_a_drawn_picture_waits_for_the_storage(
    claimed: Generation, engine: OnceDrawingEngine, disk: Disk
) -> None:
    """It is written when there is room again, by the attempt that drew it."""
    assert draw(WatchedRun(claimed, lambda _: disk.make_room()), engine) == "succeeded"
    claimed.refresh_from_db()
    assert (claimed.status, claimed.attempt, claimed.attempt_log, engine.drawn) == ("succeeded", 1, [], 1)
    assert image_read(claimed.images.get()) == drawn_picture().data
    assert len(disk.files()) == 1


def test_a_storage_that_stays_away_fails_the_job_by_its_name(
    claimed: Generation, engine: OnceDrawingEngine, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as a lost worker, not drawn again, with nothing left behind."""
    monkeypatch.setattr(runner, "STORAGE_PATIENCE_S", -1.0)
    assert draw(Run(claimed), engine) == "failed"
    claimed.refresh_from_db()
    assert claimed.error_code == ErrorCode.STORAGE_UNAVAILABLE
    assert claimed.error_detail == "The storage of pictures is full."
    assert (engine.drawn, disk.files()) == (1, [])
    with pytest.raises(FailedError) as failure:
        generation_result(claimed, waited=True)
    assert failure.value.http_status == 507


def test_waiting_for_the_storage_can_be_canceled(claimed: Generation, engine: OnceDrawingEngine) -> None:
    """As drawing can be."""

    def cancel(run: Run) -> None:
        generation_cancel(generation=claimed)
        run.stop(CANCELED)

    assert draw(WatchedRun(claimed, cancel), engine) == "canceled"


def test_a_worker_that_stops_hands_back_what_it_cannot_store(
    claimed: Generation, engine: OnceDrawingEngine
) -> None:
    """It is drawn again, wherever it can be stored."""
    assert draw(WatchedRun(claimed, lambda run: run.stop(HAND_BACK)), engine) is None
    claimed.refresh_from_db()
    assert (claimed.status, claimed.error_code) == ("queued", "")


@pytest.mark.django_db
def test_an_input_picture_that_cannot_be_read_is_waited_for(
    make: GenerationMaker,
    worker: Worker,
    disk: Disk,
    engine: OnceDrawingEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A storage that is away has not lost it."""
    monkeypatch.setattr(runner, "STORAGE_PAUSE_S", 0.0)
    generation = make(kind="img2img", input_image=PICTURE, strength=1.0)
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    picture = disk.folder / generation.input_image
    # What lies in its place cannot be read, as nothing can be on a disk with errors.
    picture.rename(picture.with_suffix(".away"))
    picture.mkdir()

    def come_back(_: Run) -> None:
        picture.rmdir()
        picture.with_suffix(".away").rename(picture)

    assert draw(WatchedRun(claimed, come_back), engine) == "succeeded"
    assert engine.drawn == 1
