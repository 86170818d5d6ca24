"""Generations drawn together by a worker's threads: claimed in one go, drawn in shared steps, ended one by one."""

import dataclasses
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import pytest
from pytest_django import Settings
from rest_framework.test import APIClient

from imagegen_project import env

env.configure_torch_process()

from generation.attempts import generation_claim  # noqa: E402
from generation.choices import SafetyResult, Status  # noqa: E402
from generation.engine import Engine, EngineUnsafe  # noqa: E402
from generation.engine.drawing import Drawing  # noqa: E402
from generation.gpu_worker import easel as easels  # noqa: E402
from generation.gpu_worker.easel import Easel  # noqa: E402
from generation.gpu_worker.run import CANCELED  # noqa: E402
from generation.models import Generation, Worker  # noqa: E402
from generation.pictures.files import image_read  # noqa: E402
from generation.queue.entries import queue_shorten, worker_wake  # noqa: E402
from generation.services import generation_cancel  # noqa: E402
from imagegen_project.common import tracing  # noqa: E402
from tests.support.collector import Collector  # noqa: E402
from tests.support.factories import GenerationMaker  # noqa: E402

pytestmark = pytest.mark.django_db(transaction=True)


class Followers:
    """In the publisher's place: they keep what they hear, and may do something about it."""

    def __init__(self) -> None:
        self.events: list[tuple[UUID, str]] = []
        self.on_progress: Any = lambda generation_id, data: None

    def send(self, generation_id: UUID, event_type: str, *, attempt: int, **data: Any) -> None:
        """Hears of an event."""
        self.events.append((generation_id, event_type))
        if event_type == "progress":
            self.on_progress(generation_id, data)

    def ends(self, generation: Generation) -> list[str]:
        """The ends that were told of a generation."""
        heard = [event for generation_id, event in self.events if generation_id == generation.pk]
        return [event for event in heard if event in ("succeeded", "failed", "canceled")]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """An engine of one thread."""
    made = Engine(threads=1)
    yield made
    made.close()


@pytest.fixture
def followers() -> Followers:
    """They follow all."""
    return Followers()


@pytest.fixture
def easel(
    engine: Engine, followers: Followers, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Easel]:
    """One with room for eight from the first step on, which tells of each step."""
    monkeypatch.setattr("generation.gpu_worker.run.PROGRESS_EVERY_S", 0.0)
    monkeypatch.setattr("generation.engine.capacity.Capacity._judge", lambda self: None)
    monkeypatch.setattr("generation.engine.capacity.FIRST", 8)
    monkeypatch.setattr(engine, "_capacities", {})
    monkeypatch.setattr(easels, "ASK_AGAIN_S", 0.0)
    publisher: Any = followers
    made = Easel(engine, publisher, worker, is_draining=lambda: False, stops_admitting=lambda: False)
    yield made
    made.close()


def draw(easel: Easel, worker: Worker) -> None:
    """Claims the next one, draws it with whoever joins, and waits until all have ended."""
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    easel.draw(claimed)
    easel.close()
    assert easel.runs == []


def receipt(generation: Generation) -> dict[str, Any]:
    """What a generation was made with."""
    generation.refresh_from_db()
    assert generation.receipt is not None, (generation.status, generation.error_detail)
    environment: dict[str, Any] = generation.receipt["environment"]
    return environment


def test_mates_join_what_runs_and_each_ends_once(
    make: GenerationMaker, easel: Easel, followers: Followers, worker: Worker
) -> None:
    """With steps, schedulers and seeds of their own; each has its pictures, its receipt and its share of the time."""
    jobs = [
        make(num_inference_steps=8),
        make(num_inference_steps=2, scheduler="euler_a", seed=1),
        make(num_inference_steps=4, scheduler="ddim", seed=2, num_images=2),
    ]
    draw(easel, worker)
    environments = [receipt(job) for job in jobs]
    assert [environment["batched_with"] > 0 for environment in environments] == [True, True, True]
    assert [environment["joined"] for environment in environments] == [False, True, True]
    for job in jobs:
        assert (job.status, job.attempt) == (Status.SUCCEEDED, 1)
        assert len([image_read(image) for image in job.images.all()]) == job.num_images
        assert followers.ends(job) == ["succeeded"]
        assert 0 < (job.busy_ms or 0) < (job.latency_ms or 0)


def test_the_queue_is_asked_when_an_entry_came(
    make: GenerationMaker,
    easel: Easel,
    followers: Followers,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And not between all steps, which takes from the processors what drawing needs."""
    monkeypatch.setattr(easels, "ASK_ANYWAY_S", 600.0)
    asked = Mock(wraps=easels.mates_claim)
    monkeypatch.setattr(easels, "mates_claim", asked)
    first, mates = make(num_inference_steps=12), []

    def come(generation_id: UUID, data: dict[str, Any]) -> None:
        if generation_id == first.pk and data["step"] == 4:
            mates.append(make(num_inference_steps=2, seed=1))
            worker_wake()

    followers.on_progress = come
    draw(easel, worker)
    assert receipt(mates[0])["joined"]
    # At the beginning, for the entry, behind what joined, and when that had left.
    assert asked.call_count <= 4


def test_where_no_entry_waits_the_queue_is_not_asked_at_first(
    make: GenerationMaker, easel: Easel, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim has just seen it; a job's own entry was taken for it."""
    monkeypatch.setattr(easels, "ASK_ANYWAY_S", 600.0)
    asked = Mock(wraps=easels.mates_claim)
    monkeypatch.setattr(easels, "mates_claim", asked)
    make(num_inference_steps=4)
    queue_shorten("", 0)
    draw(easel, worker)
    asked.assert_not_called()


def test_what_must_be_alone_is_drawn_alone(make: GenerationMaker, easel: Easel, worker: Worker) -> None:
    """A reproducible or accelerated one joins nobody, and nobody joins it."""
    alone: list[dict[str, Any]] = [{"reproducible": True}, {"acceleration": "first_block_cache"}]
    jobs = [make(num_inference_steps=3, **changes) for changes in ({}, *alone)]
    draw(easel, worker)
    assert receipt(jobs[0])["batched_with"] == 0
    for job in jobs[1:]:
        job.refresh_from_db()
        assert (job.status, job.batch_key) == (Status.QUEUED, "")


def test_a_cancel_in_a_full_batch_is_of_one(
    make: GenerationMaker, easel: Easel, followers: Followers, worker: Worker
) -> None:
    """Within a step; the others end as they would without it."""
    staying, leaving = make(num_inference_steps=6), make(num_inference_steps=50, seed=1)

    def cancel(generation_id: UUID, data: dict[str, Any]) -> None:
        if generation_id == leaving.pk and data["step"] == 2:
            (run,) = [run for run in easel.runs if run.generation.pk == leaving.pk]
            run.stop(CANCELED)

    followers.on_progress = cancel
    draw(easel, worker)
    leaving.refresh_from_db()
    assert (leaving.status, leaving.step) == (Status.CANCELED, 0)
    assert followers.ends(leaving) == ["canceled"]
    assert receipt(staying)["batched_with"] == 1
    assert followers.ends(staying) == ["succeeded"]


def test_a_failure_in_a_batch_is_of_one(
    make: GenerationMaker, easel: Easel, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mates have their pictures."""
    good, bad = make(num_inference_steps=4), make(num_inference_steps=4, prompt="a blue square")
    real = Drawing._verdicts

    def verdicts(self: Drawing, images: Any) -> Any:
        if self.batch.prompt == "a blue square":
            raise EngineUnsafe("Blocked.")
        return real(self, images)

    monkeypatch.setattr(Drawing, "_verdicts", verdicts)
    draw(easel, worker)
    assert receipt(good)["batched_with"] == 1
    bad.refresh_from_db()
    assert (bad.status, bad.error_code) == (Status.FAILED, "unsafe")
    assert bad.safety_filter_result == SafetyResult.BLOCKED


def test_what_was_claimed_and_fits_no_more_is_drawn_behind(
    make: GenerationMaker, easel: Easel, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one whose model has other files since."""
    jobs = [make(num_inference_steps=4), make(num_inference_steps=2, seed=1)]
    monkeypatch.setattr("generation.engine.engine.Sheet.takes", lambda self, batch: False)
    draw(easel, worker)
    assert [receipt(job)["batched_with"] for job in jobs] == [0, 0]


def test_a_mate_that_cannot_be_prepared_fails_alone(
    make: GenerationMaker, easel: Easel, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that was canceled before its first step ends as canceled."""
    jobs = [make(num_inference_steps=6), make(seed=1), make(seed=2, num_inference_steps=2)]
    real = easels.run_prepare

    def prepare(run: Any) -> Any:
        if run.generation.pk == jobs[1].pk:
            raise easels.InputNotFoundError("Gone.")
        if run.generation.pk == jobs[2].pk:
            generation_cancel(generation=jobs[2])
            run.stop(CANCELED)
        return dataclasses.replace(real(run))

    monkeypatch.setattr(easels, "run_prepare", prepare)
    draw(easel, worker)
    for job in jobs:
        job.refresh_from_db()
    assert [job.status for job in jobs] == [Status.SUCCEEDED, Status.FAILED, Status.CANCELED]


def test_an_engine_that_opens_nothing_leaves_nothing_running(
    make: GenerationMaker, easel: Easel, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that was to be drawn fails, and its lease is renewed no more."""
    job = make()

    def drawing(*_: Any, **__: Any) -> Any:
        message = "no such thing"
        raise RuntimeError(message)

    monkeypatch.setattr(Engine, "drawing", drawing)
    with pytest.raises(RuntimeError, match="no such thing"):
        draw(easel, worker)
    easel.close()
    job.refresh_from_db()
    assert (job.status, job.error_code, easel.runs) == (Status.FAILED, "engine_error", [])


def test_a_trace_goes_from_the_request_through_the_queue_to_each_step(
    api: APIClient, easel: Easel, worker: Worker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By OTLP to a collector, in the caller's own trace; a second attempt would be one more span of it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    collector = Collector()
    settings.OTEL_ENDPOINT = collector.url
    tracing._tracing.cache_clear()
    trace_id, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    try:
        answer = api.post(
            "/api/v1/generations",
            {"prompt": "a red circle", "width": 256, "height": 256, "steps": 3},
            headers={"Prefer": "respond-async", "traceparent": f"00-{trace_id}-{caller}-01"},
        )
        assert answer.status_code == 202, answer.content
        draw(easel, worker)
        tracing.traces_flush()
    finally:
        tracing._tracing.cache_clear()
        collector.stop()
    spans = {span.name: span for span in collector.spans if span.trace_id.hex() == trace_id}
    request = spans["POST api:generation-list"]
    assert request.parent_span_id.hex() == caller
    assert {spans[name].parent_span_id for name in ("queue", "attempt")} == {request.span_id}
    parts = [span for span in collector.spans if span.parent_span_id == spans["attempt"].span_id]
    assert {span.name for span in parts} == {"loading", "denoising", "decoding", "saving", "step"}
    steps = [span for span in parts if span.name == "step"]
    assert [value.value.int_value for span in steps for value in span.attributes] == [1, 2, 3]
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in collector.spans)
    job = {item.key: item.value.string_value for item in spans["attempt"].attributes}
    assert (job["imagegen.job_id"], job["imagegen.status"]) == (answer.json()["id"], "succeeded")


def test_without_a_collector_nothing_is_traced(make: GenerationMaker, settings: Settings) -> None:
    assert not settings.OTEL_ENDPOINT
    with tracing.request_trace("GET", parent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"):
        assert make().traceparent == ""
