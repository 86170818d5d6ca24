"""The GPU worker: RQ's loop in the main thread, the pipeline in a thread of its own, the control thread beside both.

RQ wakes it; PostgreSQL says what to do. It is a `SimpleWorker`, because a forked one would lose the CUDA context and
load the model again for every job.
"""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any

import psutil
from django.conf import settings
from django.db import close_old_connections
from django.db.models import F
from django.db.models.functions import Now

from generation.attempts import generation_claim
from generation.choices import WorkerStatus
from generation.engine import (
    CachedModel,
    Engine,
    EngineError,
    SafetySettings,
)
from generation.engine.cpu import instruction_set
from generation.engine.memory import device_name, total_and_free_mb
from generation.feed.publisher import Publisher
from generation.gpu_worker.batch import batch_default, model_ref
from generation.gpu_worker.control import ControlThread
from generation.gpu_worker.easel import Easel
from generation.gpu_worker.orders import OrderCarrier
from generation.gpu_worker.run import HAND_BACK, Run
from generation.gpu_worker.trials import attach_on_trial, trials_settle
from generation.metrics.counters import MODEL_SWAP_SECONDS
from generation.models import Worker, WorkerCommand
from generation.models.workers import WORKER_ALIVE
from generation.pictures.availability import StorageState, storage_state
from generation.queue.entries import worker_wake
from generation.queue.precedence import generation_next
from imagegen_project import __version__
from imagegen_project.common.compilers import compiler_lacking
from models_registry.classes import folder_check
from models_registry.errors import ModelNotFoundError
from models_registry.models import Checkpoint
from models_registry.quantization import library_lacks
from models_registry.selectors import checkpoint_default, checkpoints_on_host, safety_classifier_folder

logger = logging.getLogger(__name__)

# How long one of RQ's entries may keep its loop.
LONGEST_ENTRY_S = 60.0


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
            compiles=settings.COMPILE_MODELS,
            records=settings.CUDA_GRAPHS,
        )
        self.worker = self._register(name or f"{socket.gethostname()}-{os.getpid()}")
        self.publisher = Publisher()
        self.draining = threading.Event()
        self._easel = Easel(
            self.engine,
            self.publisher,
            self.worker,
            is_draining=self.draining.is_set,
            stops_admitting=lambda: bool(self._ordered),
        )
        # Orders that wait for the pipeline's thread.
        self._ordered: set[object] = set()
        self._pipeline = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pipeline")
        self._clerk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="orders")
        self.engine.cache.on_readable = lambda: self._submit(self.engine.build_waiting)
        self.engine.cache.on_resident = lambda model_id, source, seconds: self._clerk_submit(
            MODEL_SWAP_SECONDS.observe, seconds, model_id, source
        )
        self.engine.cache.folder_check = folder_check
        self.engine.cache.lacks = library_lacks
        if self.engine.recorded:
            self.engine.recorded.on_refused = lambda reason: logger.warning(
                "denoiser not recorded", extra={"reason": reason}
            )
        self.engine.cache.around_attach = partial(attach_on_trial, worker=self.worker.name)
        self._orders = OrderCarrier(
            self.engine,
            in_pipeline=self._order_submit,
            beside=self._clerk_submit,
            on_carried_out=self._order_carried_out,
        )
        self._control = ControlThread(self)
        self._grace: threading.Timer | None = None
        self._begun: Future[None] | None = None
        self._loading = False
        self._worked_at = time.monotonic()
        self._leaked_mb = 0
        self._seen: frozenset[str] = frozenset()

    def _register(self, name: str) -> Worker:
        # Rows of dead processes of this host: they would look alive until their heartbeat is old. They stay for what
        # they left behind, whose end names them.
        for row in Worker.objects.filter(hostname=socket.gethostname()):
            if not psutil.pid_exists(row.pid):
                Worker.objects.filter(pk=row.pk).update(heartbeat_at=F("heartbeat_at") - WORKER_ALIVE)
        trials_settle(reborn=name)
        total, free = total_and_free_mb(self.engine.device)
        worker, _ = Worker.objects.update_or_create(
            name=name,
            defaults={
                "hostname": socket.gethostname(),
                "pid": os.getpid(),
                "device": device_name(self.engine.device),
                "instruction_set": instruction_set(self.engine.device),
                "version": __version__,
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
        """Loads (and compiles) the default checkpoint in the pipeline thread and starts the control thread."""
        self._control.start()
        self._pipeline.submit(self._preload)
        worker_wake(device_class=self.worker.device_class)  # rows that were queued while no worker lived

    def close(self) -> None:
        """Ends the threads and takes the worker's row away."""
        # First the job in hand: until it has ended or gone back, its grace runs on.
        self._pipeline.shutdown(wait=True)
        self._easel.close()
        if self._grace is not None:
            self._grace.cancel()
        self._control.stop()
        self.engine.close()
        self._clerk.shutdown(wait=True)
        self.publisher.close()
        Worker.objects.filter(pk=self.worker.pk).delete()

    def run_next(self) -> None:
        """Claims and draws generations until there is none; returns at once when the worker is draining.

        And after a while in any case, with more to draw: RQ wants to look after its own things.
        """
        if self.draining.is_set():
            return
        with contextlib.suppress(TimeoutError):
            self._pipeline.submit(self._claim_and_run).result(timeout=LONGEST_ENTRY_S)

    def _claim_and_run(self) -> None:
        while not self.draining.is_set() and self._claim_and_draw():
            if self._ordered:
                self._again()
                return

    def _again(self) -> None:
        """Goes on behind the orders that wait for this thread."""
        with contextlib.suppress(RuntimeError):  # it closes
            self._pipeline.submit(self._claim_and_run)

    def _claim_and_draw(self) -> bool:
        """Draws the best queued generation and what can be drawn with it; False when there is none."""
        # What nobody could store stays queued; the sweep brings its entry again.
        if storage_state() is not StorageState.OK:
            return False
        close_old_connections()
        try:
            generation = generation_claim(
                worker=self.worker,
                resident=self.engine.resident,
                warm=self.engine.warm,
                publish=self.publisher.send,
            )
            if generation is None:
                return False
            self._easel.draw(generation)
            self._worked_at = time.monotonic()
            self._look_for_leaks()
        finally:
            close_old_connections()
        return True

    def _submit(self, action: Callable[..., None], *arguments: Any) -> None:
        """Hands work to the pipeline thread from any other; none is taken any more once the worker closes."""
        with contextlib.suppress(RuntimeError):
            self._pipeline.submit(action, *arguments)

    def _order_submit(self, action: Callable[..., None], *arguments: Any) -> None:
        """The same for an order, for which nothing more joins what is being drawn."""
        order = object()
        self._ordered.add(order)

        def carry_out() -> None:
            self._ordered.discard(order)
            action(*arguments)

        self._submit(carry_out)

    def _clerk_submit(self, action: Callable[..., None], *arguments: Any) -> None:
        """The same for the clerk's thread."""
        with contextlib.suppress(RuntimeError):
            self._clerk.submit(action, *arguments)

    def _preload(self) -> None:
        close_old_connections()
        self._loading = True
        try:
            checkpoint = checkpoint_default()
            self.engine.load(model_ref(checkpoint))
            if settings.COMPILE_MODELS:
                self._compile(checkpoint)
        except (EngineError, ModelNotFoundError) as error:
            logger.warning("default model not loaded", extra={"reason": str(error)})
        finally:
            self._loading = False
            close_old_connections()

    def _compile(self, checkpoint: Checkpoint) -> None:
        if graphs := self.engine.compile(batch_default(checkpoint)):
            logger.info("default model compiled", extra={"model_id": checkpoint.id, "graphs": graphs})
            return
        lacking = compiler_lacking(card=self.engine.device.type != "cpu")
        reason = lacking or self.engine.compile_problem
        logger.warning("default model not compiled", extra={"model_id": checkpoint.id, "reason": reason})

    # What the control thread asks for

    @property
    def runs(self) -> list[Run]:
        """What was claimed and has not ended."""
        return self._easel.runs

    def status(self) -> WorkerStatus:
        """What the worker is doing."""
        if self.draining.is_set():
            return WorkerStatus.DRAINING
        if self.runs:
            return WorkerStatus.BUSY
        loading = self._loading or any(model.tier == "loading" for model in self.engine.models())
        return WorkerStatus.LOADING if loading else WorkerStatus.IDLE

    def models(self) -> list[CachedModel]:
        """What is in its cache."""
        return self.engine.models()

    def memory_mb(self) -> tuple[int, int]:
        """Total and free memory of the device, MiB."""
        return total_and_free_mb(self.engine.device)

    def cache_state(self) -> dict[str, Any]:
        """The columns of the worker's row that say what is in its cache."""
        beside = Worker.objects.live().filter(hostname=self.worker.hostname).count()
        self.engine.host_share(workers=max(1, beside))
        models, on_host = self.engine.models(), checkpoints_on_host()
        plans = {row.pk: self.engine.plan(model_ref(row)) for row in on_host}
        # What the next claim goes by, too.
        self.worker.model_plans = {
            model_id: {"verdict": plan.verdict, "reason": plan.reason}
            for model_id, plan in plans.items()
            if plan
        }
        return {
            "resident_models": [model.id for model in models if model.tier == "resident"],
            "cached_models": [asdict(model) for model in models],
            "models_on_disk": list(plans),
            "model_plans": self.worker.model_plans,
            "leaked_mb": self._leaked_mb,
        }

    def look_ahead(self, *, queued: bool) -> None:
        """Reads the model of the next job into host memory while one runs; begins the next one where nobody said so.

        Entries may be late or lost: Redis may be away, or full. `queued` is whether any jobs wait.
        """
        if self.draining.is_set():
            return
        upcoming = None
        if queued:
            upcoming = generation_next(device_class=self.worker.device_class, unfit=self.worker.unfit)
        if upcoming is not None or self.status() is not WorkerStatus.IDLE:
            self._worked_at = time.monotonic()
        elif self._is_idle() and self.engine.models():
            self._submit(self._unload_idle)
        if upcoming is None:
            return
        if not self.runs:
            if self._begun is None or self._begun.done():
                with contextlib.suppress(RuntimeError):  # it closes
                    self._begun = self._pipeline.submit(self._claim_and_run)
        elif upcoming.checkpoint_id not in {model.id for model in self.engine.models()}:
            self.engine.prefetch(model_ref(upcoming.checkpoint))

    def command_submit(self, command: WorkerCommand) -> None:
        """Carries an order out, beside the job in hand where it can be."""
        self._orders.carry_out(command)

    def _is_idle(self) -> bool:
        """Whether it has had no work for so long that its models may go."""
        limit = settings.MODEL_IDLE_UNLOAD_S
        return bool(limit) and time.monotonic() - self._worked_at > limit and not self.runs

    def _unload_idle(self) -> None:
        if not self._is_idle():  # something came meanwhile
            return
        gone = self.engine.unload_idle()
        logger.info("models unloaded", extra={"idle_s": settings.MODEL_IDLE_UNLOAD_S, "model_ids": gone})
        self._look_for_leaks()

    def _order_carried_out(self) -> None:
        self._worked_at = time.monotonic()
        self._look_for_leaks()
        Worker.objects.filter(pk=self.worker.pk).update(**self.cache_state())

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
        for run in self.runs:
            run.stop(HAND_BACK)
