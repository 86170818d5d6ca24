"""The GPU worker: RQ's loop in the main thread, the pipeline in a thread of its own, the control thread beside both.

RQ wakes it; PostgreSQL says what to do. It is a `SimpleWorker`, because a forked one would lose the CUDA context and
load the model again for every job.
"""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, cast

import psutil
from django.conf import settings
from django.db import close_old_connections
from django.db.models.functions import Now

from generation.attempts import generation_claim
from generation.choices import CommandKind, ErrorCode, WorkerStatus
from generation.engine import (
    AdapterUse,
    Engine,
    EngineError,
    EngineModelBroken,
    EngineModelUnavailable,
    SafetySettings,
)
from generation.engine.memory import device_name, total_and_free_mb
from generation.feed.publisher import Publisher
from generation.gpu_worker.batch import model_ref
from generation.gpu_worker.control import ControlThreads
from generation.gpu_worker.run import HAND_BACK, Run, failure_code, run_generation
from generation.gpu_worker.watchdog import watchdog_disarm
from generation.metrics.counters import MODEL_SWAP_SECONDS
from generation.models import Generation, Worker, WorkerCommand
from generation.orders import command_finish
from generation.queue.entries import worker_wake
from generation.queue.precedence import generation_next
from imagegen_project.common.context import job_id, request_id, username
from loras.files import lora_path
from loras.models import Lora
from models_registry.choices import DiskState
from models_registry.errors import ModelNotFoundError
from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_default, checkpoints_here, safety_classifier_folder
from models_registry.services import checkpoint_mark_broken

logger = logging.getLogger(__name__)


def safety_settings() -> SafetySettings:
    """The safety filter as the settings describe it."""
    return SafetySettings(
        mode=settings.SAFETY_FILTER,
        classifier=safety_classifier_folder(),
        labels=tuple(label.lower() for label in settings.SAFETY_LABELS),
        threshold=settings.SAFETY_THRESHOLD,
    )


class GpuRuntime:
    """One process's engine and the threads around it; all that touches a pipeline runs in the pipeline thread."""

    def __init__(self, *, name: str = "") -> None:
        self.engine = Engine(
            threads=settings.TORCH_THREADS,
            resident_mb=settings.MODEL_CACHE_VRAM_MB,
            warm_mb=settings.MODEL_CACHE_RAM_MB,
            adapters_mb=settings.LORA_CACHE_VRAM_MB,
            safety=safety_settings(),
        )
        self.worker = self._register(name or f"{socket.gethostname()}-{os.getpid()}")
        self.publisher = Publisher()
        self.run: Run | None = None
        self.draining = threading.Event()
        self._pipeline = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pipeline")
        self._clerk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="orders")
        self.engine.cache.on_readable = lambda: self._submit(self.engine.build_waiting)
        self.engine.cache.on_resident = lambda model_id, source, seconds: self._clerk_submit(
            MODEL_SWAP_SECONDS.observe, seconds, model_id, source
        )
        self._control = ControlThreads(self)
        self._grace: threading.Timer | None = None
        self._loading = False
        self._leaked_mb = 0
        self._seen: frozenset[str] = frozenset()

    def _register(self, name: str) -> Worker:
        # Rows of dead processes of this host: they would look alive until their heartbeat is old.
        for row in Worker.objects.filter(hostname=socket.gethostname()):
            if not psutil.pid_exists(row.pid):
                row.delete()
        total, free = total_and_free_mb(self.engine.device)
        worker, _ = Worker.objects.update_or_create(
            name=name,
            defaults={
                "hostname": socket.gethostname(),
                "pid": os.getpid(),
                "device": device_name(self.engine.device),
                "device_class": settings.DEVICE_CLASS,
                "status": WorkerStatus.STARTING,
                "memory_total_mb": total,
                "memory_free_mb": free,
                "resident_models": [],
                "heartbeat_at": Now(),
            },
        )
        return worker

    def start(self) -> None:
        """Loads the default checkpoint in the pipeline thread and starts the control thread."""
        self._control.start()
        self._pipeline.submit(self._preload)
        worker_wake(device_class=self.worker.device_class)  # rows that were queued while no worker lived

    def close(self) -> None:
        """Ends the threads and takes the worker's row away."""
        # First the job in hand: until it has ended or gone back, its grace runs on.
        self._pipeline.shutdown(wait=True)
        if self._grace is not None:
            self._grace.cancel()
        self._control.stop()
        self.engine.close()
        self._clerk.shutdown(wait=True)
        self.publisher.close()
        Worker.objects.filter(pk=self.worker.pk).delete()

    def run_next(self) -> None:
        """Claims and runs one generation; returns at once when there is none or the worker is draining."""
        if not self.draining.is_set():
            self._pipeline.submit(self._run_next).result()

    def _run_next(self) -> None:
        close_old_connections()
        try:
            generation = generation_claim(worker=self.worker, resident=self.engine.resident)
            if generation is not None:
                self._run(generation)
                self._look_for_leaks()
        finally:
            close_old_connections()

    def _run(self, generation: Generation) -> None:
        tokens = [
            (variable, variable.set(value))
            for variable, value in (
                (job_id, str(generation.id)),
                (request_id, generation.request_id),
                (username, generation.owner.get_username()),
            )
        ]
        self.run = run = Run(generation)
        if self.draining.is_set():
            run.stop(HAND_BACK)
        try:
            run_generation(run, self.engine, self.publisher, worker_name=self.worker.name)
        finally:
            watchdog_disarm()
            self.run = None
            for variable, token in tokens:
                variable.reset(token)

    def _submit(self, action: Callable[..., None], *arguments: Any) -> None:
        """Hands work to the pipeline thread from any other; none is taken any more once the worker closes."""
        with contextlib.suppress(RuntimeError):
            self._pipeline.submit(action, *arguments)

    def _clerk_submit(self, action: Callable[..., None], *arguments: Any) -> None:
        """The same for the clerk's thread."""
        with contextlib.suppress(RuntimeError):
            self._clerk.submit(action, *arguments)

    def _preload(self) -> None:
        close_old_connections()
        self._loading = True
        try:
            self.engine.load(model_ref(checkpoint_default()))
        except (EngineError, ModelNotFoundError) as error:
            logger.warning("default model not loaded", extra={"reason": str(error)})
        finally:
            self._loading = False
            close_old_connections()

    # What the control thread asks for

    def status(self) -> WorkerStatus:
        """What the worker is doing."""
        if self.draining.is_set():
            return WorkerStatus.DRAINING
        if self.run:
            return WorkerStatus.BUSY
        loading = self._loading or any(model.tier == "loading" for model in self.engine.models())
        return WorkerStatus.LOADING if loading else WorkerStatus.IDLE

    def memory_mb(self) -> tuple[int, int]:
        """Total and free memory of the device, MiB."""
        return total_and_free_mb(self.engine.device)

    def cache_state(self) -> dict[str, Any]:
        """The columns of the worker's row that say what is in its cache."""
        models = self.engine.models()
        return {
            "resident_models": [model.id for model in models if model.tier == "resident"],
            "cached_models": [asdict(model) for model in models],
            "models_on_disk": checkpoints_here(),
            "leaked_mb": self._leaked_mb,
        }

    def look_ahead(self) -> None:
        """While a job runs, reads the model of the next one into host memory."""
        if self.run is None or self.draining.is_set():
            return
        upcoming = generation_next(device_class=self.worker.device_class)
        known = {model.id for model in self.engine.models()}
        if upcoming is not None and upcoming.checkpoint_id not in known:
            self.engine.prefetch(model_ref(upcoming.checkpoint))

    def command_submit(self, command: WorkerCommand) -> None:
        """Carries an order out: a load beside the job in hand, anything else behind it."""
        if command.kind != CommandKind.LOAD:
            self._submit(self._carry_out, command)
            return
        checkpoint = cast(Checkpoint, command.checkpoint)
        if checkpoint.state == DiskState.BROKEN:
            self._clerk.submit(self._loaded, command, EngineModelUnavailable(checkpoint.error_detail))
            return
        loading = self.engine.load_beside(model_ref(checkpoint))
        # By a thread of its own: the pipeline's is busy with a job, and the reader must not wait for a database.
        loading.add_done_callback(lambda done: self._clerk.submit(self._loaded, command, done.exception()))

    def _loaded(self, command: WorkerCommand, error: BaseException | None) -> None:
        close_old_connections()
        try:
            if isinstance(error, EngineModelBroken):
                checkpoint_mark_broken(checkpoint_id=str(command.checkpoint_id), detail=str(error))
            self._command_end(command, error)
        finally:
            close_old_connections()

    def _carry_out(self, command: WorkerCommand) -> None:
        close_old_connections()
        try:
            match command.kind:
                case CommandKind.UNLOAD:
                    self.engine.unload(str(command.checkpoint_id))
                case CommandKind.ATTACH:
                    self._attach(command)
                case CommandKind.DETACH:
                    self.engine.detach(cast(Lora, command.lora).sha256)
                case CommandKind.DRAIN:
                    os.kill(os.getpid(), signal.SIGTERM)
            self._command_end(command, None)
        except EngineError as error:
            self._command_end(command, error)
        finally:
            close_old_connections()

    def _attach(self, command: WorkerCommand) -> None:
        """Puts an adapter on the model that was named, or on the first resident one that it fits."""
        lora = cast(Lora, command.lora)
        path = lora_path(lora)
        use = AdapterUse(lora.name, lora.sha256, path, 1.0)
        wanted = command.checkpoint_id or ""
        resident = Checkpoint.objects.filter(pk__in=self.engine.resident, family=lora.family)
        checkpoint = resident.filter(pk=wanted).first() if wanted else resident.first()
        if checkpoint is not None:
            self.engine.attach(model_ref(checkpoint), use)

    def _command_end(self, command: WorkerCommand, error: BaseException | None) -> None:
        self._look_for_leaks()
        Worker.objects.filter(pk=self.worker.pk).update(**self.cache_state())
        code = failure_code(error) if error else ErrorCode.ENGINE_ERROR
        command_finish(command=command, error_code=code, detail=str(error or ""))

    def _look_for_leaks(self) -> None:
        """Looks once a model has been swapped or unloaded, never between jobs on the same models."""
        held = frozenset(self.engine.resident)
        if held == self._seen:
            return
        self._seen = held
        report = self.engine.leaks()
        self._leaked_mb = report.leaked_mb
        log = logger.warning if report.alarming else logger.info
        log("models swapped", extra={"resident": sorted(held), **asdict(report)})

    # Stopping

    def drain(self) -> None:
        """Takes no new work; what runs may finish within `WORKER_GRACE_S`, then it is handed back."""
        self.draining.set()
        self._grace = threading.Timer(settings.WORKER_GRACE_S, self.hand_back)
        self._grace.daemon = True
        self._grace.start()

    def hand_back(self) -> None:
        """Puts what runs back into the queue, at its next step."""
        self.draining.set()
        if run := self.run:
            run.stop(HAND_BACK)
