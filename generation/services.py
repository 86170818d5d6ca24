"""What clients do to generations: create, cancel, retry, replay, delete. Every status change passes through here."""

import contextlib
import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.db import InterfaceError, OperationalError, transaction
from django.db.models.functions import Now

from generation.choices import ACTIVE, Kind, OutputFormat, Status
from generation.errors import GenerationActiveError, GenerationEndedError, NoReceiptError
from generation.feed.stream import event_publish
from generation.lora_uses import LoraWish, adapters_again, adapters_store
from generation.metrics.counters import generation_measure
from generation.models import MAX_SEED, Generation, IdempotencyKey
from generation.pictures.files import files_delete, input_name, input_read, input_store
from generation.queue.entries import worker_wake
from generation.queue.limits import limits_check, owner_lock, work_note, work_return
from generation.queue.turns import turn_next
from generation.transitions import generation_move
from generation.webhooks.outbox import webhook_note
from imagegen_project.common.context import request_id
from models_registry.choices import DiskState
from models_registry.family_facts import steps_to_run
from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_get
from models_registry.services import checkpoint_request_download

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
    "scheduler",
    "clip_skip",
    "strength",
    "output_format",
    "preview_every",
    "strict",
    "timeout_s",
    "device_class",
    "total_steps",
)
# Input pictures, by the field that names their file.
_INPUTS = {"input_image": "image", "mask_image": "mask"}


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
    scheduler: str = "",
    clip_skip: int | None = None,
    strength: float | None = None,
    output_format: str = OutputFormat.PNG,
    preview_every: int = 0,
    strict: bool = False,
    reproducible: bool = False,
    warnings: list[dict[str, Any]] | None = None,
    kind: Kind = Kind.TXT2IMG,
    input_image: bytes | None = None,
    mask_image: bytes | None = None,
    loras: Sequence[LoraWish] = (),
    priority: int = 0,
    device_class: str = "",
    webhook_url: str = "",
    webhook_events: Sequence[str] = (),
    cancel_on_disconnect: bool = False,
) -> Generation:
    """Stores a queued generation; once that is committed, a worker is woken and followers are told.

    `seed` -1 is resolved to a random one now, so that every attempt and every replay uses the same. `input_image` and
    `mask_image` are the files that `generation.inputs` prepares: PNG, width x height.
    """
    pictures = {"input_image": input_image, "mask_image": mask_image}
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
            scheduler=scheduler,
            clip_skip=clip_skip,
            strength=strength,
            output_format=output_format,
            preview_every=preview_every,
            strict=strict,
            timeout_s=timeout_s,
            reproducible=reproducible,
            warnings=warnings or [],
            priority=priority,
            device_class=device_class,
            webhook_url=webhook_url,
            webhook_events=list(webhook_events),
            cancel_on_disconnect=cancel_on_disconnect,
            total_steps=steps_to_run(
                family=checkpoint.family, num_inference_steps=num_inference_steps, strength=strength
            ),
        ),
        {field: data for field, data in pictures.items() if data is not None},
        loras,
    )


def _generation_store(
    generation: Generation, pictures: Mapping[str, bytes], loras: Sequence[LoraWish]
) -> Generation:
    """Writes the row, its input pictures (by the field that names the file) and its adapters, all or nothing."""
    generation.request_id = request_id.get()
    unowned: list[str] = []
    committing = False
    try:
        for field, data in pictures.items():
            name = input_name(generation.id, _INPUTS[field])
            unowned.append(name)
            input_store(name, data)
            setattr(generation, field, name)
            generation.input_bytes += len(data)
        with transaction.atomic():
            _admit(generation)
            generation.save(force_insert=True)
            work_note(generation)
            # First of all: whatever fails from here on, the files belong to a row.
            transaction.on_commit(unowned.clear)
            adapters_store(generation, loras, owner=generation.owner)
            transaction.on_commit(partial(_generation_announce, generation))
            if generation.checkpoint.state != DiskState.PRESENT:
                checkpoint_request_download(checkpoint=generation.checkpoint)
            committing = True
    except (OperationalError, InterfaceError):
        if not committing:  # else it may be stored: the orphan sweep knows later
            files_delete(unowned)
        raise
    except BaseException:
        files_delete(unowned)
        raise
    return generation


def _admit(generation: Generation) -> None:
    """Holds a new generation against the limits, and gives it its turn."""
    owner_lock(generation.owner_id)
    limits_check(generation)
    generation.turn = turn_next(owner_id=generation.owner_id, priority=generation.priority)


def _generation_announce(generation: Generation) -> None:
    event_publish(generation.id, "queued", attempt=0, total_steps=generation.total_steps)
    worker_wake(device_class=generation.device_class)


def _generation_again(original: Generation, *, owner: User, **changes: Any) -> Generation:
    values = {name: getattr(original, name) for name in _REQUEST_FIELDS}
    checkpoint_get(name=original.checkpoint_id)  # unless it has been disabled
    values["priority"] = original.priority if owner.is_staff else min(original.priority, 0)
    # A message is signed with its owner's secret, and meant for that owner's server.
    if owner == original.owner:
        values |= {"webhook_url": original.webhook_url, "webhook_events": original.webhook_events}
    # Copies, so that either generation can be deleted.
    pictures = {field: input_read(name) for field in _INPUTS if (name := getattr(original, field))}
    return _generation_store(
        Generation(owner=owner, **values, **changes), pictures, adapters_again(original, owner=owner)
    )


def generation_retry(*, generation: Generation, owner: User) -> Generation:
    """A new generation with the same resolved request, linked to the ended one.

    Raises GenerationActiveError, InputNotFoundError when the storage has lost an input picture, or
    LoraUnavailableError when one of its adapters has been deleted or withdrawn, and
    ModelNotFoundError when its checkpoint is disabled.
    """
    if not generation.is_terminal:
        raise GenerationActiveError("Only a generation that has ended can be retried; cancel it first.")
    return _generation_again(
        generation, owner=owner, reproducible=generation.reproducible, retry_of=generation
    )


def generation_replay(*, generation: Generation, owner: User) -> Generation:
    """Runs a receipt again, alone; when it succeeds, `pixels_match` says whether it drew the same pixels.

    Raises NoReceiptError unless the original succeeded, InputNotFoundError when the storage has lost an input picture,
    or LoraUnavailableError when one of its adapters has been deleted or withdrawn, and
    ModelNotFoundError when its checkpoint is disabled.
    """
    if generation.receipt is None:
        raise NoReceiptError("Only a generation that succeeded can be replayed.")
    return _generation_again(generation, owner=owner, reproducible=True, replay_of=generation)


def generation_cancel(*, generation: Generation) -> Generation:
    """Cancels: a queued one at once, a running one within a second or one step. Raises GenerationEndedError."""
    with transaction.atomic():
        # Held, so that a worker which is handing it back either sees the cancel or is done.
        list(Generation.objects.select_for_update().filter(pk=generation.pk))
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
    if generation.is_terminal:
        generation_measure(generation)
    return generation


def generation_delete(*, generation: Generation) -> None:
    """Removes the generation and its files; a running one is canceled first by losing its row.

    Its worker notices within a second, and its writes are fenced, so nothing of it stays behind. The files follow
    the rows, see generation/receivers.py.
    """
    attempt = generation.attempt
    was_active = not generation.is_terminal
    with transaction.atomic():
        generation_id = generation.id
        if was_active:
            webhook_note(generation_id=generation_id, to=Status.CANCELED)
            work_return(generation_id)
        generation.delete()
        if was_active:
            transaction.on_commit(
                partial(event_publish, generation_id, "canceled", attempt=attempt + 1, reason="deleted")
            )


def generations_abandon(*, ids: Iterable[UUID]) -> None:
    """Cancels what a client hung up on. Its Idempotency-Key is free again: it never saw an answer."""
    IdempotencyKey.objects.filter(generation_id__in=list(ids)).delete()
    for generation in Generation.objects.filter(pk__in=list(ids), status__in=ACTIVE):
        with contextlib.suppress(GenerationEndedError):
            generation_cancel(generation=generation)
