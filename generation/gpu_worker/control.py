"""The control thread of a GPU worker: leases, cancels, heartbeat and orders, beside whatever is drawn."""

import contextlib
import time
from typing import Any, Protocol

from django.db import connection
from django.db.models.functions import Now

from generation.attempts import Progress, attempts_renew
from generation.choices import CommandKind, CommandStatus, Status, WorkerStatus
from generation.engine import CachedModel
from generation.gpu_worker.run import CANCELED, LOST, Run, storing_watch
from generation.models import Worker, WorkerCommand
from generation.orders import commands_due
from imagegen_project.common.periodic import periodic_threads
from models_registry.choices import DiskState
from models_registry.selectors import checkpoint_is_here

TICK_S = 0.25
LOOK_EVERY_S = 0.5
# Of a worker that does and has what it did and had.
HEARTBEAT_EVERY_S = 2.0

# Twice a second, mostly for nothing: built by the ORM, the two questions took four times as much of Python's lock.
_LOOK = """
SELECT EXISTS (SELECT FROM generation_workercommand WHERE worker_id = %s AND status = %s),
    EXISTS (SELECT FROM generation_generation WHERE status = %s)
"""


class Controlled(Protocol):
    """What the control thread needs of the runtime it serves."""

    worker: Worker

    @property
    def runs(self) -> list[Run]:
        """What was claimed and has not ended."""

    def status(self) -> WorkerStatus:
        """What the worker is doing."""

    def memory_mb(self) -> tuple[int, int]:
        """Total and free memory of the device, MiB."""

    def cache_state(self) -> dict[str, Any]:
        """The columns of the worker's row that say what is in its cache."""

    def models(self) -> list[CachedModel]:
        """What is in its cache."""

    def command_submit(self, command: WorkerCommand) -> None:
        """Carries an order out, beside the job in hand where it can be."""

    def look_ahead(self, *, queued: bool) -> None:
        """Gets the model of the next job ready while one runs; `queued` is whether there are any jobs that wait."""


class ControlThread:
    """Runs until stopped; ticks are short, so a lease is renewed many times before it could run out."""

    def __init__(self, runtime: Controlled) -> None:
        self.runtime = runtime
        self._looked_at = self._beaten_at = float("-inf")
        self._said: tuple[WorkerStatus, list[CachedModel]] | None = None
        self._running = contextlib.ExitStack()

    def start(self) -> None:
        """Starts the thread."""
        self._running.enter_context(periodic_threads(("control", self.tick, TICK_S)))

    def stop(self) -> None:
        """Stops it after what is in hand."""
        self._running.close()

    def tick(self) -> None:
        """One round."""
        self._renew()
        if time.monotonic() - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = time.monotonic()
            self._look()

    def _renew(self) -> None:
        runs = {(run.generation.id, run.generation.attempt): run for run in self.runtime.runs}
        leases = attempts_renew(progress={each: Progress(run.step, run.phase) for each, run in runs.items()})
        for each, run in runs.items():
            if not leases[each].held:
                run.stop(LOST)  # one that has ended meanwhile stops nothing
            elif leases[each].cancel_requested:
                run.stop(CANCELED)
            storing_watch(run)

    def _look(self) -> None:
        says = self.runtime.status(), self.runtime.models()
        if says != self._said or time.monotonic() - self._beaten_at >= HEARTBEAT_EVERY_S:
            self._heartbeat()
            self._said, self._beaten_at = says, time.monotonic()
        with connection.cursor() as cursor:
            cursor.execute(_LOOK, [self.runtime.worker.pk, CommandStatus.PENDING, Status.QUEUED])
            ordered, queued = cursor.fetchone()
        if ordered:
            self._take_commands()
        self.runtime.look_ahead(queued=queued)

    def _heartbeat(self) -> None:
        total, free = self.runtime.memory_mb()
        worker = self.runtime.worker
        columns = {
            "name": worker.name,
            "hostname": worker.hostname,
            "pid": worker.pid,
            "device": worker.device,
            "instruction_set": worker.instruction_set,
            "device_class": worker.device_class,
            "version": worker.version,
            "status": self.runtime.status(),
            "memory_total_mb": total,
            "memory_free_mb": free,
            "heartbeat_at": Now(),
            **self.runtime.cache_state(),
        }
        if not Worker.objects.filter(pk=worker.pk).update(**columns):
            # The same again: a sweep has forgotten it while this machine slept.
            Worker.objects.create(pk=worker.pk, **columns)

    def _take_commands(self) -> None:
        for command in commands_due(self.runtime.worker):
            if _waits_for_files(command):
                continue
            taken = WorkerCommand.objects.filter(pk=command.pk, status=CommandStatus.PENDING)
            if taken.update(status=CommandStatus.RUNNING):
                self.runtime.command_submit(command)


def _waits_for_files(command: WorkerCommand) -> bool:
    """Whether it is a load of what another host has, and this one is to get."""
    checkpoint = command.checkpoint
    if command.kind != CommandKind.LOAD or checkpoint is None or checkpoint.state != DiskState.PRESENT:
        return False
    return not checkpoint_is_here(checkpoint)
