"""What clients do to generations: create, cancel, retry, replay, delete. Every status change passes through here."""

import logging
import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.core.files.storage import default_storage
from django.db import transaction
from django.db.models.functions import Now

from generation.adapters import LoraWish, adapters_again, adapters_store
from generation.adjustments import steps_to_run
from generation.choices import ACTIVE, ALLOWED_FROM, Kind, OutputFormat, Status
from generation.errors import GenerationActiveError, GenerationEndedError, NoReceiptError
from generation.events import event_publish
from generation.inputs import input_name, input_read, input_store
from generation.models import MAX_SEED, Generation
from generation.queueing import worker_wake
from imagegen_project.common.context import request_id
from models_registry.choices import DiskState
from models_registry.models import Checkpoint
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
    "strict",
    "timeout_s",
    "total_steps",
)
# Input pictures, by the field that names their file.
_INPUTS = {"input_image": "image", "mask_image": "mask"}


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
    scheduler: str = "",
    clip_skip: int | None = None,
    strength: float | None = None,
    output_format: str = OutputFormat.PNG,
    strict: bool = False,
    reproducible: bool = False,
    warnings: list[dict[str, Any]] | None = None,
    kind: Kind = Kind.TXT2IMG,
    input_image: bytes | None = None,
    mask_image: bytes | None = None,
    loras: Sequence[LoraWish] = (),
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
            strict=strict,
            timeout_s=timeout_s,
            reproducible=reproducible,
            warnings=warnings or [],
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
    try:
        for field, data in pictures.items():
            name = input_name(generation.id, _INPUTS[field])
            unowned.append(name)
            input_store(name, data)
            setattr(generation, field, name)
        with transaction.atomic():
            generation.save(force_insert=True)
            # First of all: whatever fails from here on, the files belong to a row.
            transaction.on_commit(unowned.clear)
            adapters_store(generation, loras, owner=generation.owner)
            transaction.on_commit(partial(_generation_announce, generation))
            if generation.checkpoint.state != DiskState.PRESENT:
                checkpoint_request_download(checkpoint=generation.checkpoint)
    except BaseException:
        files_delete(unowned)
        raise
    return generation


def _generation_announce(generation: Generation) -> None:
    event_publish(generation.id, "queued", attempt=0, total_steps=generation.total_steps)
    worker_wake()


def _generation_again(original: Generation, **changes: Any) -> Generation:
    values = {name: getattr(original, name) for name in _REQUEST_FIELDS}
    # Copies, so that either generation can be deleted.
    pictures = {field: input_read(name) for field in _INPUTS if (name := getattr(original, field))}
    return _generation_store(Generation(**values, **changes), pictures, adapters_again(original))


def generation_retry(*, generation: Generation, owner: User) -> Generation:
    """A new generation with the same resolved request, linked to the ended one.

    Raises GenerationActiveError, or InputNotFoundError when the storage has lost an input picture.
    """
    if not generation.is_terminal:
        raise GenerationActiveError("Only a generation that has ended can be retried; cancel it first.")
    return _generation_again(
        generation, owner=owner, reproducible=generation.reproducible, retry_of=generation
    )


def generation_replay(*, generation: Generation, owner: User) -> Generation:
    """Runs a receipt again, alone; when it succeeds, `pixels_match` says whether it drew the same pixels.

    Raises NoReceiptError unless the original succeeded, InputNotFoundError when the storage has lost an input picture.
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
    names += [name for field in _INPUTS if (name := getattr(generation, field))]
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
