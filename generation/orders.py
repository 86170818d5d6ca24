"""Orders to GPU workers: load and unload models, attach and detach adapters."""

from collections.abc import Iterable
from functools import partial
from typing import Any
from uuid import UUID

from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from uuid_utils.compat import uuid7

from generation.choices import ACTIVE, CommandKind, CommandStatus, ErrorCode
from generation.errors import (
    ModelInUseError,
    NoWorkerError,
    OrderFailedError,
    OrderNotFoundError,
    OrdersLimitError,
    OrderUnfinishedError,
)
from generation.feed.stream import event_publish
from generation.metrics.counters import order_measure
from generation.models import Generation, Worker, WorkerCommand
from generation.queue.limits import orders_work_note, owner_lock
from loras.choices import PENDING, LoraState
from loras.models import Lora
from models_registry.choices import DiskState
from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_check_supported
from models_registry.services import checkpoint_request_download

# One user's unfinished orders; each worker that is told counts.
MAX_ORDERS_PER_USER = 16


def order_create(
    *, kind: CommandKind, checkpoint: Checkpoint, requested_by: User, everywhere: bool = False
) -> list[WorkerCommand]:
    """Orders a load, or an unload, of a checkpoint, downloading it first where needed.

    A load goes to the live worker with most free memory, an unload to one that holds the checkpoint, where there is
    one; `everywhere` means every live worker. Every worker that is told counts towards the user's work limit. Raises
    NoWorkerError, ModelUnsupportedError, OrdersLimitError, WorkLimitError, or ModelInUseError where an unload would
    take the model away from other users' generations.
    """
    if kind is CommandKind.LOAD:
        checkpoint_check_supported(checkpoint)
    if kind is CommandKind.UNLOAD:
        _refuse_unload_from_others(checkpoint, requested_by)
    workers = Worker.objects.live().order_by("-memory_free_mb", "id")
    if kind is CommandKind.UNLOAD:
        holders = workers.filter(cached_models__contains=[{"id": checkpoint.id}])
        workers = holders if holders.exists() else workers
    chosen: list[Worker] = list(workers if everywhere else workers[:1])
    if not chosen:
        raise NoWorkerError(
            "No GPU worker is alive; start one with `manage.py gpu_worker`.", headers={"Retry-After": "10"}
        )
    with transaction.atomic():
        if kind is CommandKind.LOAD:
            checkpoint_request_download(checkpoint=checkpoint)
        return _give(chosen, kind=kind, checkpoint=checkpoint, requested_by=requested_by)


def _refuse_unload_from_others(checkpoint: Checkpoint, user: User) -> None:
    theirs = Generation.objects.filter(checkpoint=checkpoint, status__in=ACTIVE).exclude(owner=user)
    if not user.is_staff and theirs.exists():
        raise ModelInUseError(
            f"Generations of other users need {checkpoint.pk}; it can be unloaded once they have ended.",
            headers={"Retry-After": "30"},
        )


def _give(workers: Iterable[Worker], *, requested_by: User, **values: Any) -> list[WorkerCommand]:
    """Raises OrdersLimitError or WorkLimitError."""
    told = list(workers)
    if not told:
        return []
    order_id = uuid7()
    with transaction.atomic():
        owner_lock(requested_by.pk)
        unfinished = WorkerCommand.objects.filter(
            requested_by=requested_by, status__in=(CommandStatus.PENDING, CommandStatus.RUNNING)
        )
        if not requested_by.is_staff and unfinished.count() >= MAX_ORDERS_PER_USER:
            raise OrdersLimitError(
                f"{MAX_ORDERS_PER_USER} of your orders are unfinished; wait for them.",
                headers={"Retry-After": "5"},
            )
        commands = [
            WorkerCommand.objects.create(
                order_id=order_id, worker=worker, requested_by=requested_by, **values
            )
            for worker in told
        ]
        orders_work_note(owner=requested_by, command_ids=[command.pk for command in commands])
    return commands


def worker_drain(*, worker: Worker, requested_by: User) -> list[WorkerCommand]:
    """Orders a worker to finish what it draws, claim nothing more, and end. Raises NoWorkerError where it is silent."""
    if not Worker.objects.live().filter(pk=worker.pk).exists():
        raise NoWorkerError("It has not been heard for a while: there is nobody to tell.")
    return _give([worker], kind=CommandKind.DRAIN, requested_by=requested_by)


def adapter_attach(
    *, lora: Lora, requested_by: User, checkpoint: Checkpoint | None = None
) -> list[WorkerCommand]:
    """Orders an adapter onto a model that is loaded: the checkpoint where one is named, else one of its family.

    Goes to a live worker that holds such a model; an empty list where none does, since then there is nothing to warm.
    """
    fitting = Worker.objects.live().order_by("-memory_free_mb", "id")
    if checkpoint is not None:
        fitting = fitting.filter(resident_models__contains=[checkpoint.pk])
    chosen = [worker for worker in fitting if worker.resident_models][:1]
    return _give(chosen, kind=CommandKind.ATTACH, lora=lora, checkpoint=checkpoint, requested_by=requested_by)


def adapter_detach(*, lora: Lora, requested_by: User) -> list[WorkerCommand]:
    """Orders an adapter off every live worker that holds it; the jobs that run keep it until they end."""
    holders = [
        worker
        for worker in Worker.objects.live()
        if any(lora.sha256 in model["adapters"] for model in worker.cached_models)
    ]
    return _give(holders, kind=CommandKind.DETACH, lora=lora, requested_by=requested_by)


def command_finish(*, command: WorkerCommand, error_code: ErrorCode, detail: str = "") -> bool:
    """Ends an order, as failed where there is a `detail`; False when it had ended already."""
    status = CommandStatus.FAILED if detail else CommandStatus.SUCCEEDED
    with transaction.atomic():
        active = WorkerCommand.objects.filter(
            pk=command.pk, status__in=(CommandStatus.PENDING, CommandStatus.RUNNING)
        )
        moved = active.update(
            status=status, detail=detail, error_code=error_code if detail else "", finished_at=Now()
        )
        if moved:
            event = "failed" if detail else "succeeded"
            transaction.on_commit(partial(event_publish, command.pk, event, attempt=0))  # type: ignore[arg-type]
            transaction.on_commit(partial(order_measure, command, status=status))
    return bool(moved)


def order_status(commands: list[WorkerCommand]) -> CommandStatus:
    """The status of an order as a whole: failed as soon as one part has, succeeded when all have."""
    present = {CommandStatus(command.status) for command in commands}
    steps = (CommandStatus.FAILED, CommandStatus.RUNNING, CommandStatus.PENDING, CommandStatus.SUCCEEDED)
    return next(status for status in steps if status in present)


def order_result(commands: list[WorkerCommand]) -> dict[str, Any]:
    """An order that was waited for. Raises the error that says why it was not carried out."""
    status = order_status(commands)
    order_id = commands[0].order_id
    if status is CommandStatus.FAILED:
        failed = next(command for command in commands if command.status == CommandStatus.FAILED)
        detail = f"{failed.worker}: {failed.detail}"
        raise OrderFailedError(error_code=failed.error_code, detail=detail, order_id=str(order_id))
    if status is not CommandStatus.SUCCEEDED:
        address = commands[0].get_absolute_url()
        raise OrderUnfinishedError(
            f"It has not ended yet. Its state is at {address}.",
            headers={"Location": address},
            order_id=str(order_id),
            location=address,
        )
    return order_body(commands)


def order_body(commands: list[WorkerCommand]) -> dict[str, Any]:
    """What an order's serializer shows."""
    first = commands[0]
    return {
        "id": first.order_id,
        "kind": first.kind,
        "model": first.checkpoint_id,
        "lora": first.lora_id,
        "status": order_status(commands),
        "commands": commands,
    }


def commands_due(worker: Worker) -> QuerySet[WorkerCommand]:
    """The orders a worker can carry out now, oldest first; a load waits until the files are there, or will not come."""
    asked_again = Q(checkpoint__download_requested_at__isnull=False)
    on_their_way = Q(checkpoint__state=DiskState.DOWNLOADING) | Q(
        checkpoint__state=DiskState.ABSENT, checkpoint__error_code=""
    )
    coming = on_their_way | (Q(checkpoint__state__in=(DiskState.ABSENT, DiskState.BROKEN)) & asked_again)
    pending = WorkerCommand.objects.filter(worker=worker, status=CommandStatus.PENDING).exclude(
        Q(kind=CommandKind.LOAD) & coming
    )
    waiting = Q(kind=CommandKind.ATTACH, lora__state__in=(LoraState.ABSENT, *PENDING))
    return pending.exclude(waiting).select_related("checkpoint", "lora").order_by("id")


def order_get(*, user: User | AnonymousUser, order_id: UUID) -> list[WorkerCommand]:
    """What one request asked of the workers: the user's own; staff see all. Raises OrderNotFoundError."""
    rows = WorkerCommand.objects.filter(order_id=order_id).select_related("worker", "checkpoint")
    commands = list((rows if user.is_staff else rows.filter(requested_by_id=user.pk)).order_by("id"))
    if not commands:
        raise OrderNotFoundError(f"No order {order_id}; the worker it was for may be gone.")
    return commands
