"""One claimed generation, from the row to the engine and back."""

import faulthandler
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections

from generation import attempts
from generation.choices import ErrorCode, Phase, SafetyResult, Status
from generation.engine import (
    Batch,
    BatchResult,
    EngineAdapterUnusable,
    EngineDeviceLost,
    EngineError,
    EngineModelBroken,
    EngineModelUnavailable,
    EngineOutOfMemory,
    EngineRefused,
    EngineStopped,
    EngineUnsafe,
    Listeners,
)
from generation.engine.previews import Preview
from generation.errors import InputNotFoundError, StorageUnavailableError
from generation.feed.publisher import Publisher
from generation.gpu_worker.batch import batch_of, receipt_make
from generation.gpu_worker.watchdog import watchdog_arm
from generation.models import Generation
from generation.pictures.files import FinishedImage
from imagegen_project.common.tracing import Trace, trace_begin
from models_registry.services import checkpoint_mark_broken

logger = logging.getLogger(__name__)

DEVICE_LOST_EXIT = 70
# PostgreSQL may be restarting just as a picture is finished.
WRITE_PAUSES_S = (0.5, 1.0, 2.0, 4.0)

_CODES = {
    EngineModelUnavailable: ErrorCode.MODEL_UNAVAILABLE,
    EngineAdapterUnusable: ErrorCode.LORA_UNAVAILABLE,
    EngineOutOfMemory: ErrorCode.OUT_OF_MEMORY,
    EngineUnsafe: ErrorCode.UNSAFE,
    EngineRefused: ErrorCode.WOULD_BE_ADJUSTED,
}

# What of a fast model's steps is told: people see no more, and each costs the steps themselves some time.
PROGRESS_EVERY_S = 0.1

# How long a drawn picture is held in memory for a storage that does not take it, and how often it is offered.
STORAGE_PATIENCE_S = 60.0
STORAGE_PAUSE_S = 1.0

Outcome = TypeVar("Outcome")

CANCELED, TIMEOUT, LOST, HAND_BACK = "canceled", "timeout", "lost", "hand_back"


@dataclass
class Run:
    """What the pipeline thread and the control thread share about the generation that runs."""

    generation: Generation
    started: float = field(default_factory=time.monotonic)
    step: int = 0
    phase: Phase = Phase.LOADING
    reason: str = ""
    # When its pictures went to be stored.
    drawn: float | None = None
    trace: Trace = field(init=False)
    # When the present phase and step began, for the trace.
    _phase_began: float = field(default_factory=time.time)
    _step_began: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        """Goes on in the trace of its request, after the time in the queue."""
        generation, job_id = self.generation, str(self.generation.id)
        place = generation.traceparent
        queue = trace_begin("queue", parent=place, since=generation.created_at, job_id=job_id)
        queue.end(until=generation.started_at)
        self.trace = trace_begin(
            "attempt",
            parent=place,
            job_id=job_id,
            attempt=generation.attempt,
            model=generation.checkpoint_id,
        )

    def trace_step(self, step: int) -> None:
        """Tells the trace that a step has ended."""
        now = time.time()
        self.trace.part("step", since=self._step_began, until=now, step=step)
        self._step_began = now

    def trace_end(self, status: Status | None) -> None:
        """Tells the trace how the attempt ended."""
        self.trace.part(self.phase.value, since=self._phase_began, until=time.time())
        ended = status.value if status else self.reason or LOST
        self.trace.note(status=ended, error=ended if status is Status.FAILED else "")
        self.trace.end()

    def stop(self, reason: str) -> None:
        """Asks the run to stop before its next step; the first reason counts."""
        self.reason = self.reason or reason

    def enter(self, phase: Phase, publisher: Publisher) -> None:
        """Notes that another phase has begun, and tells of it."""
        if phase is not self.phase:
            now = time.time()
            self.trace.part(self.phase.value, since=self._phase_began, until=now)
            self._phase_began = self._step_began = now
            self.phase = phase
            publisher.send(self.generation.id, "phase", attempt=self.generation.attempt, phase=phase)

    def should_stop(self) -> str | None:
        """Why to stop, or None."""
        if not self.reason and time.monotonic() - self.started > self.generation.timeout_s:
            self.stop(TIMEOUT)
        return self.reason or None

    def eta_s(self, step: int, total_steps: int) -> float:
        """Seconds that the remaining steps will take at the speed so far."""
        return round((time.monotonic() - self.started) / step * (total_steps - step), 2)


def _persist(write: Callable[[], Outcome]) -> Outcome:
    """Makes a write, again while the database is away. Raises its error when it stays away."""
    for pause in WRITE_PAUSES_S:
        try:
            return write()
        except (OperationalError, InterfaceError):
            logger.warning("database away, trying again", extra={"pause_s": pause})
            close_old_connections()
            time.sleep(pause)
    return write()


def _outlast_storage(run: Run, action: Callable[[], Outcome]) -> Outcome:
    """Does what needs the storage, again while that is away. Raises StorageUnavailableError when it stays so too long.

    The lease is renewed meanwhile, and whatever stops a run stops the waiting too.
    """
    deadline = time.monotonic() + STORAGE_PATIENCE_S
    while True:
        try:
            return action()
        except StorageUnavailableError:
            if run.should_stop() or time.monotonic() > deadline:
                raise
            time.sleep(STORAGE_PAUSE_S)


def storing_watch(run: Run) -> None:
    """Ends the process where a drawn generation has not been stored for longer than any storage is waited for.

    The pipeline's watchdog sees only steps; as after any death, the lease brings the job to another worker.
    """
    if run.drawn is None or not settings.WATCHDOG_S:
        return
    if time.monotonic() - run.drawn > STORAGE_PATIENCE_S + settings.WATCHDOG_S:
        faulthandler.dump_traceback()
        os._exit(DEVICE_LOST_EXIT)


def run_prepare(run: Run) -> Batch:
    """What a claimed generation is to the engine; waits for a storage that is away.

    Raises EngineAdapterUnusable, InputNotFoundError or StorageUnavailableError.
    """
    return _outlast_storage(run, lambda: batch_of(run.generation))


def run_listeners(run: Run, publisher: Publisher) -> Listeners:
    """Takes what the engine says of a generation to its followers, and what stops it to the engine."""
    generation = run.generation
    attempt = generation.attempt
    seen: list[Preview] = []
    told_at = float("-inf")

    def on_step(step: int, of_steps: int) -> None:
        nonlocal told_at
        # A checkpoint's own scheduler may do more than was counted on: PNDM does its second step twice.
        total_steps, last = generation.total_steps, step >= of_steps
        run.step = max(1, step * total_steps // of_steps)
        run.trace_step(step)
        now = time.monotonic()
        if last or seen or now - told_at >= PROGRESS_EVERY_S:
            told_at = now
            publisher.send(
                generation.id,
                "progress",
                attempt=attempt,
                step=run.step,
                total_steps=total_steps,
                percent=round(100 * run.step / total_steps, 1),
                eta_s=run.eta_s(run.step, total_steps),
                preview=seen.pop().jpeg_base64 if seen else None,
                phase=run.phase,
            )
        if last:
            run.enter(Phase.DECODING, publisher)

    def on_warning(warning: dict[str, Any]) -> None:
        publisher.send(generation.id, "warning", attempt=attempt, warnings=[warning])

    def should_stop() -> str | None:
        watchdog_arm()  # the sign of life that it waits for
        return run.should_stop()

    return Listeners(
        on_drawing=lambda: run.enter(Phase.DENOISING, publisher),
        on_step=on_step,
        on_preview=seen.append,
        on_warning=on_warning,
        should_stop=should_stop,
    )


def run_end(
    run: Run, publisher: Publisher, outcome: Callable[[], tuple[Batch, BatchResult]]
) -> Status | None:
    """Brings a claimed generation to its end, by the pictures that `outcome` returns or by what it raises.

    None when it was no longer this worker's or went back to the queue.
    """
    try:
        batch, result = outcome()
    except EngineStopped as stop:
        return _stopped(run, publisher, stop.reason)
    except EngineDeviceLost as error:
        # This process would fail every job that it takes. As after any death, the lease brings the job to another one.
        logger.critical("device lost", extra={"job_id": str(run.generation.id)}, exc_info=error)
        os._exit(DEVICE_LOST_EXIT)
    except (EngineError, InputNotFoundError) as error:
        return _failed_by(run, publisher, error)
    except StorageUnavailableError as error:
        return _unstored(run, publisher, error)
    run.enter(Phase.SAVING, publisher)
    try:
        return _outlast_storage(run, lambda: _succeeded(run, publisher, batch, result))
    except StorageUnavailableError as error:
        return _unstored(run, publisher, error)


def _succeeded(run: Run, publisher: Publisher, batch: Batch, result: BatchResult) -> Status | None:
    generation = run.generation
    latency_ms = int((time.monotonic() - run.started) * 1000)
    # Put together once: a write whose commit fails has changed the row's copy.
    warnings = [*generation.warnings, *result.warnings]
    moved = _persist(
        lambda: attempts.attempt_succeed(
            generation=generation,
            images=[FinishedImage(**vars(picture)) for picture in result.pictures],
            receipt=receipt_make(batch, result, generation.checkpoint),
            latency_ms=latency_ms,
            busy_ms=round(latency_ms * result.share),
            vram_peak_mb=result.memory_peak_mb,
            safety=SafetyResult(result.safety),
            warnings=warnings,
            publish=publisher.send,
        )
    )
    return Status.SUCCEEDED if moved else None


def failure_code(error: BaseException) -> ErrorCode:
    """What clients are told an error of the engine was."""
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), ErrorCode.ENGINE_ERROR)


def _failed_by(run: Run, publisher: Publisher, error: Exception) -> Status | None:
    """Ends the generation as the error says; a checkpoint that cannot be used is put out of use."""
    generation = run.generation
    code = failure_code(error)
    detail = str(error)
    if isinstance(error, InputNotFoundError):
        detail = "Its input picture is gone from the storage."
    elif isinstance(error, EngineRefused):
        detail = f"{error.warning['param']}: {detail}"
    if code is ErrorCode.ENGINE_ERROR or isinstance(error, EngineModelBroken):
        logger.error("engine error", extra={"job_id": str(generation.id)}, exc_info=error)
    if isinstance(error, EngineModelBroken):
        _persist(lambda: checkpoint_mark_broken(checkpoint_id=generation.checkpoint_id, detail=detail))
    blocked = code is ErrorCode.UNSAFE
    return _failed(
        run,
        publisher,
        code,
        detail,
        safety=SafetyResult.BLOCKED if blocked else SafetyResult.NOT_CHECKED,
    )


def _failed(
    run: Run,
    publisher: Publisher,
    code: ErrorCode,
    detail: str,
    *,
    safety: SafetyResult = SafetyResult.NOT_CHECKED,
) -> Status | None:
    moved = _persist(
        lambda: attempts.attempt_fail(
            generation=run.generation, code=code, detail=detail, safety=safety, publish=publisher.send
        )
    )
    return Status.FAILED if moved else None


def _unstored(run: Run, publisher: Publisher, error: StorageUnavailableError) -> Status | None:
    """Ends what the storage kept from ending: as it was stopped meanwhile, else as failed."""
    if run.reason in (CANCELED, HAND_BACK, LOST):
        return _stopped(run, publisher, run.reason)
    logger.error("storage away", extra={"job_id": str(run.generation.id), "reason": error.detail})
    return _failed(run, publisher, ErrorCode.STORAGE_UNAVAILABLE, error.detail)


def _stopped(run: Run, publisher: Publisher, reason: str) -> Status | None:
    generation, publish = run.generation, publisher.send
    if reason == TIMEOUT:
        detail = f"It ran longer than its timeout_s of {generation.timeout_s} s."
        return _failed(run, publisher, ErrorCode.TIMEOUT, detail)
    if reason == CANCELED:
        canceled = _persist(lambda: attempts.attempt_cancel(generation=generation, publish=publish))
        return Status.CANCELED if canceled else None
    if reason == HAND_BACK:
        end = _persist(lambda: attempts.attempt_hand_back(generation=generation, publish=publish))
        return end if end is Status.CANCELED else None
    return None  # the lease is lost, and with it the right to write
