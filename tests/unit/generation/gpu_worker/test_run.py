"""What a generation ends with when the engine could not draw it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest_django import Settings

from generation.attempts import generation_claim
from generation.choices import SafetyResult
from generation.engine import (
    EngineAdapterUnusable,
    EngineModelBroken,
    EngineModelUnavailable,
    EngineOutOfMemory,
    EngineRefused,
    EngineUnsafe,
)
from generation.engine.previews import Preview
from generation.errors import InputNotFoundError
from generation.feed.publisher import Publisher
from generation.gpu_worker.run import Run
from generation.models import Worker
from models_registry.choices import DiskState
from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_folder
from tests.support.factories import GenerationMaker
from tests.support.runs import run_alone


class FailingEngine:
    """Raises one error, as an engine does from the pipeline's thread."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def run(self, *_: Any, **__: Any) -> Any:
        raise self.error


REFUSED = EngineRefused({"param": "clip_skip", "reason": "This model has one layer."})


@pytest.mark.parametrize(
    ("error", "code", "detail"),
    [
        (EngineUnsafe("Blocked."), "unsafe", "Blocked."),
        (REFUSED, "would_be_adjusted", "clip_skip: This model has one layer."),
        (EngineAdapterUnusable("soft has NaNs."), "lora_unavailable", "soft has NaNs."),
        (EngineModelUnavailable("Not here."), "model_unavailable", "Not here."),
        (EngineModelBroken("Tensors are missing."), "model_unavailable", "Tensors are missing."),
        (EngineOutOfMemory("Too large."), "out_of_memory", "Too large."),
        (InputNotFoundError("Gone."), "engine_error", "Its input picture is gone from the storage."),
    ],
)
def test_an_error_of_the_engine_ends_the_job_with_its_code(
    make: GenerationMaker,
    worker: Worker,
    settings: Settings,
    tmp_path: Path,
    error: Exception,
    code: str,
    detail: str,
) -> None:
    """In the row, with a sentence; only a checkpoint whose files are at fault is put out of use."""
    settings.MODEL_CACHE_DIR = tmp_path
    checkpoint = Checkpoint.objects.exclude(id="builtin")[0]
    checkpoint.state, checkpoint.revision = DiskState.PRESENT, "a" * 40
    checkpoint.save()
    checkpoint_folder(checkpoint).mkdir(parents=True)
    make(checkpoint=checkpoint)
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    publisher = Publisher()
    engine: Any = FailingEngine(error)
    try:
        assert run_alone(Run(claimed), engine, publisher) == "failed"
    finally:
        publisher.close()
    claimed.refresh_from_db()
    assert (claimed.status, claimed.error_code, claimed.error_detail) == ("failed", code, detail)
    unsafe = isinstance(error, EngineUnsafe)
    assert claimed.safety_filter_result == (SafetyResult.BLOCKED if unsafe else SafetyResult.NOT_CHECKED)
    checkpoint.refresh_from_db()
    broken = isinstance(error, EngineModelBroken)
    assert checkpoint.state == (DiskState.BROKEN if broken else DiskState.PRESENT)


class CountingEngine:
    """Reports six steps, the third one with a preview, and fails."""

    def run(self, *_: Any, on_drawing: Any, on_step: Any, on_preview: Any, **__: Any) -> Any:
        on_drawing()
        for step in range(1, 7):
            if step == 3:
                on_preview(Preview(np.zeros((1, 4, 1, 1), np.float32), np.zeros((5, 3), np.float32)))
            on_step(step, 6)
        raise EngineOutOfMemory("Too large.")


class Recorder:
    """Keeps the progress that would be published."""

    def __init__(self) -> None:
        self.progress: list[tuple[int, float]] = []
        self.phases: list[str] = []

    def send(self, _: Any, kind: str, **event: Any) -> None:
        if kind == "progress":
            self.progress.append((event["step"], event["percent"]))
        if "phase" in event:
            self.phases.append(f"{kind}: {event['phase']}")


def test_steps_of_a_fast_model_are_left_out_between_those_that_matter(
    make: GenerationMaker, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first, the last and those with a preview are told however soon they come; the row has them all."""
    monkeypatch.setattr("generation.gpu_worker.run.PROGRESS_EVERY_S", math.inf)
    make(num_inference_steps=6)
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    engine: Any = CountingEngine()
    recorder: Any = Recorder()
    run = Run(claimed)
    run_alone(run, engine, recorder)
    assert [step for step, _ in recorder.progress] == [1, 3, 6]
    assert run.step == 6


def test_progress_ends_with_the_last_step_whatever_the_scheduler_counts(
    make: GenerationMaker, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint's own one may do a step twice, and nobody knew: it is spread over the steps that were announced."""
    monkeypatch.setattr("generation.gpu_worker.run.PROGRESS_EVERY_S", 0.0)
    make(num_inference_steps=5)
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    engine: Any = CountingEngine()
    recorder: Any = Recorder()
    run_alone(Run(claimed), engine, recorder)
    assert recorder.progress == [(1, 20.0), (1, 20.0), (2, 40.0), (3, 60.0), (4, 80.0), (5, 100.0)]
    assert recorder.phases == ["phase: denoising", *["progress: denoising"] * 6, "phase: decoding"]
