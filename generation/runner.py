"""One claimed generation, from the row to the engine and back."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from django.db import InterfaceError, OperationalError, close_old_connections

from generation import attempts
from generation.choices import ErrorCode, Status
from generation.engine import (
    Batch,
    BatchResult,
    Engine,
    EngineError,
    EngineModelUnavailable,
    EngineOutOfMemory,
    EngineStopped,
    ModelRef,
)
from generation.models import Generation
from generation.publisher import Publisher
from generation.selectors import image_refs
from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_folder

logger = logging.getLogger(__name__)

# PostgreSQL may be restarting just as a picture is finished.
WRITE_PAUSES_S = (0.5, 1.0, 2.0, 4.0)

CANCELED, TIMEOUT, LOST, HAND_BACK = "canceled", "timeout", "lost", "hand_back"


def model_ref(checkpoint: Checkpoint) -> ModelRef:
    """A checkpoint as the engine knows it."""
    return ModelRef(
        id=checkpoint.id,
        repository=checkpoint.repository,
        revision=checkpoint.revision,
        folder=checkpoint_folder(checkpoint),
        dtype=checkpoint.dtype,
    )


@dataclass
class Run:
    """What the pipeline thread and the control thread share about the generation that runs."""

    generation: Generation
    started: float = field(default_factory=time.monotonic)
    step: int = 0
    reason: str = ""

    def stop(self, reason: str) -> None:
        """Asks the run to stop before its next step; the first reason counts."""
        self.reason = self.reason or reason

    def should_stop(self) -> str | None:
        """Why to stop, or None."""
        if not self.reason and time.monotonic() - self.started > self.generation.timeout_s:
            self.stop(TIMEOUT)
        return self.reason or None

    def eta_s(self, step: int, total_steps: int) -> float:
        """Seconds that the remaining steps will take at the speed so far."""
        return round((time.monotonic() - self.started) / step * (total_steps - step), 2)


def _batch(generation: Generation) -> Batch:
    return Batch(
        model=model_ref(generation.checkpoint),
        prompt=generation.prompt,
        negative_prompt=generation.negative_prompt,
        width=generation.width,
        height=generation.height,
        num_inference_steps=generation.num_inference_steps,
        guidance_scale=generation.guidance_scale,
        seed=generation.seed,
        num_images=generation.num_images,
    )


def _receipt(batch: Batch, result: BatchResult, checkpoint: Checkpoint) -> dict[str, object]:
    environment = dict(result.environment)
    request = asdict(batch)
    del request["model"]  # named below, without this host's folder
    return {
        "request": request,
        "model": {
            "id": checkpoint.id,
            "repository": checkpoint.repository,
            "revision": checkpoint.revision,
            "family": checkpoint.family,
            "weights_sha256": environment.pop("weights_sha256"),
        },
        "environment": environment,
    }


def _persist(write: Callable[[], bool]) -> bool:
    """Makes a write, again while the database is away. Raises its error when it stays away."""
    for pause in WRITE_PAUSES_S:
        try:
            return write()
        except (OperationalError, InterfaceError):
            logger.warning("database away, trying again", extra={"pause_s": pause})
            close_old_connections()
            time.sleep(pause)
    return write()


def run_generation(run: Run, engine: Engine, publisher: Publisher, *, worker_name: str) -> Status | None:
    """Runs a claimed generation to its end; None when it was no longer this worker's or went back to the queue."""
    generation = run.generation
    attempt = generation.attempt
    batch = _batch(generation)

    def on_step(step: int, total_steps: int) -> None:
        run.step = step
        publisher.send(
            generation.id,
            "progress",
            attempt=attempt,
            step=step,
            total_steps=total_steps,
            percent=round(100 * step / total_steps, 1),
            eta_s=run.eta_s(step, total_steps),
            preview=None,
        )

    publisher.send(
        generation.id,
        "started",
        attempt=attempt,
        worker=worker_name,
        model=generation.checkpoint_id,
        seed=generation.seed,
        total_steps=generation.total_steps,
        warnings=generation.warnings,
    )
    try:
        result = engine.run(batch, on_step=on_step, should_stop=run.should_stop)
    except EngineStopped as stop:
        return _stopped(run, publisher, stop.reason)
    except EngineModelUnavailable as error:
        return _failed(run, publisher, ErrorCode.MODEL_UNAVAILABLE, str(error))
    except EngineOutOfMemory as error:
        return _failed(run, publisher, ErrorCode.OUT_OF_MEMORY, str(error))
    except EngineError as error:
        logger.exception("engine error", extra={"job_id": str(generation.id)})
        return _failed(run, publisher, ErrorCode.ENGINE_ERROR, str(error))
    return _succeeded(run, publisher, batch, result)


def _succeeded(run: Run, publisher: Publisher, batch: Batch, result: BatchResult) -> Status | None:
    generation = run.generation
    images = [
        attempts.FinishedImage(
            picture.data, picture.pixel_sha256, picture.width, picture.height, picture.seed
        )
        for picture in result.pictures
    ]
    latency_ms = int((time.monotonic() - run.started) * 1000)
    moved = _persist(
        lambda: attempts.attempt_succeed(
            generation=generation,
            images=images,
            receipt=_receipt(batch, result, generation.checkpoint),
            latency_ms=latency_ms,
            vram_peak_mb=result.memory_peak_mb,
        )
    )
    if not moved:
        return None
    publisher.send(
        generation.id,
        "succeeded",
        attempt=generation.attempt,
        seed=generation.seed,
        images=image_refs(generation.images.all()),
    )
    return Status.SUCCEEDED


def _failed(run: Run, publisher: Publisher, code: ErrorCode, detail: str) -> Status | None:
    generation = run.generation
    if not _persist(lambda: attempts.attempt_fail(generation=generation, code=code, detail=detail)):
        return None
    publisher.send(
        generation.id, "failed", attempt=generation.attempt, error={"code": code.value, "detail": detail}
    )
    return Status.FAILED


def _stopped(run: Run, publisher: Publisher, reason: str) -> Status | None:
    generation = run.generation
    if reason == TIMEOUT:
        detail = f"It ran longer than its timeout_s of {generation.timeout_s} s."
        return _failed(run, publisher, ErrorCode.TIMEOUT, detail)
    if reason == CANCELED and _persist(lambda: attempts.attempt_cancel(generation=generation)):
        publisher.send(generation.id, "canceled", attempt=generation.attempt)
        return Status.CANCELED
    if reason == HAND_BACK and _persist(lambda: attempts.attempt_hand_back(generation=generation)):
        publisher.send(generation.id, "queued", attempt=generation.attempt, reason="handed_back")
    return None
