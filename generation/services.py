"""What clients do to generations: create, cancel, retry, replay, delete. Every status change passes through here."""

import logging
import secrets
from functools import partial
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.core.files.storage import default_storage
from django.db import transaction
from django.db.models.functions import Now

from generation.choices import ACTIVE, ALLOWED_FROM, CommandKind, Kind, Status
from generation.errors import GenerationActiveError, GenerationEndedError, NoReceiptError, NoWorkerError
from generation.events import event_publish
from generation.models import MAX_SEED, Generation, Worker, WorkerCommand
from generation.queueing import worker_wake
from generation.selectors import live_workers
from imagegen_project.common.context import request_id
from models_registry.models import Checkpoint

logger = logging.getLogger(__name__)

# What a retry or replay takes over from its original.
_REQUEST_FIELDS = (
    "kind",
    "checkpoint",
    "prompt",
    "negative_prompt",
    "width",
    "height",
    "num_inference_steps",
    "guidance_scale",
    "seed",
    "num_images",
    "timeout_s",
    "total_steps",
)


def generation_move(
    *,
    generation_id: UUID,
    to: Status,
    origins: tuple[Status, ...] = (),
    fence: int | None = None,
    **values: Any,
) -> bool:
    """The one way a status changes: a conditional UPDATE. True when *this* call moved it.

    `origins` narrows where it may come from. `fence` is the attempt the caller acts for: a worker whose lease was
    taken back moves nothing.
    """
    rows = Generation.objects.filter(pk=generation_id, status__in=origins or ALLOWED_FROM[to])
    if fence is not None:
        rows = rows.filter(attempt=fence)
    if to is not Status.RUNNING:
        values["lease_expires_at"] = None
    if to not in ACTIVE:
        values["finished_at"] = Now()
    return rows.update(status=to, **values) == 1


def generation_create(
    *,
    owner: User,
    checkpoint: Checkpoint,
    prompt: str,
    width: int,
    height: int,
    num_inference_steps: int,
    guidance_scale: float,
    timeout_s: int,
    seed: int = -1,
    negative_prompt: str = "",
    num_images: int = 1,
    reproducible: bool = False,
    warnings: list[dict[str, Any]] | None = None,
    kind: Kind = Kind.TXT2IMG,
) -> Generation:
    """Stores a queued generation; once that is committed, a worker is woken and followers are told.

    `seed` -1 is resolved to a random one now, so that every attempt and every replay uses the same.
    """
    return _generation_store(
        Generation(
            owner=owner,
            kind=kind,
            checkpoint=checkpoint,
            prompt=prompt,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            seed=secrets.randbelow(MAX_SEED + 1) if seed == -1 else seed,
            num_images=num_images,
            timeout_s=timeout_s,
            reproducible=reproducible,
            warnings=warnings or [],
            total_steps=num_inference_steps,
        )
    )


def _generation_store(generation: Generation) -> Generation:
    generation.request_id = request_id.get()
    with transaction.atomic():
        generation.save(force_insert=True)
        transaction.on_commit(partial(_generation_announce, generation))
    return generation


def _generation_announce(generation: Generation) -> None:
    event_publish(generation.id, "queued", attempt=0, total_steps=generation.total_steps)
    worker_wake()


def _generation_again(original: Generation, **changes: Any) -> Generation:
    values = {name: getattr(original, name) for name in _REQUEST_FIELDS}
    return _generation_store(Generation(**values, **changes))


def generation_retry(*, generation: Generation, owner: User) -> Generation:
    """A new generation with the same resolved request, linked to the ended one. Raises GenerationActiveError."""
    if not generation.is_terminal:
        raise GenerationActiveError("Only a generation that has ended can be retried; cancel it first.")
    return _generation_again(
        generation, owner=owner, reproducible=generation.reproducible, retry_of=generation
    )


def generation_replay(*, generation: Generation, owner: User) -> Generation:
    """Runs a receipt again, alone; when it succeeds, `pixels_match` says whether it drew the same pixels.

    Raises NoReceiptError unless the original succeeded.
    """
    if generation.receipt is None:
        raise NoReceiptError("Only a generation that succeeded can be replayed.")
    return _generation_again(generation, owner=owner, reproducible=True, replay_of=generation)


def generation_cancel(*, generation: Generation) -> Generation:
    """Cancels: a queued one at once, a running one within a second or one step. Raises GenerationEndedError."""
    with transaction.atomic():
        if generation_move(
            generation_id=generation.id,
            to=Status.CANCELED,
            origins=(Status.QUEUED,),
            cancel_requested_at=Now(),
        ):
            transaction.on_commit(
                partial(event_publish, generation.id, "canceled", attempt=generation.attempt)
            )
        elif not Generation.objects.filter(pk=generation.pk, status__in=ACTIVE).update(
            cancel_requested_at=Now()
        ):
            generation.refresh_from_db()
            raise GenerationEndedError(f"The generation has already ended: {generation.status}.")
    generation.refresh_from_db()
    return generation


def generation_delete(*, generation: Generation) -> None:
    """Removes the generation and its files; a running one is canceled first by losing its row.

    Its worker notices within a second, and its writes are fenced, so nothing of it stays behind.
    """
    names = list(generation.images.values_list("file", flat=True))
    attempt = generation.attempt
    was_active = not generation.is_terminal
    with transaction.atomic():
        generation_id = generation.id
        generation.delete()
        if was_active:
            transaction.on_commit(
                partial(event_publish, generation_id, "canceled", attempt=attempt + 1, reason="deleted")
            )
        transaction.on_commit(partial(files_delete, names))


def files_delete(names: list[str]) -> None:
    """Removes stored files; one that is already gone is fine."""
    for name in names:
        default_storage.delete(name)


def command_create(*, kind: CommandKind, checkpoint: Checkpoint, requested_by: User) -> WorkerCommand:
    """An order to load or unload a checkpoint, for the live worker with most free memory.

    An unload goes to a worker that holds the checkpoint, where there is one. Raises NoWorkerError.
    """
    workers = live_workers().order_by("-memory_free_mb", "id")
    if kind is CommandKind.UNLOAD:
        holders = workers.filter(resident_models__contains=[checkpoint.id])
        workers = holders if holders.exists() else workers
    worker: Worker | None = workers.first()
    if worker is None:
        raise NoWorkerError(
            "No GPU worker is alive; start one with `manage.py gpu_worker`.", headers={"Retry-After": "10"}
        )
    return WorkerCommand.objects.create(
        worker=worker, kind=kind, checkpoint=checkpoint, requested_by=requested_by
    )
