"""What clients do to generations: create, cancel, retry, replay, delete."""

import contextlib
import logging
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.db import InterfaceError, OperationalError, transaction
from django.db.models.functions import Now

from generation.choices import ACTIVE, Status
from generation.errors import (
    GenerationActiveError,
    GenerationEndedError,
    NoReceiptError,
    NothingToShareError,
    ShareNotFoundError,
    TooManySharesError,
)
from generation.lora_uses import LoraWish, adapters_again, adapters_store
from generation.models import MAX_SEED, Generation, GenerationRequest, IdempotencyKey, Share
from generation.pictures.files import files_delete, input_name, input_read, input_store
from generation.queue.admission import generation_admit
from generation.queue.mates import batch_key
from generation.transitions import generation_announce, generation_end
from imagegen_project.common.context import base_url, request_id, traceparent
from models_registry.choices import DiskState
from models_registry.selectors import checkpoint_check_supported, checkpoint_get
from models_registry.services import checkpoint_request_download

logger = logging.getLogger(__name__)

MAX_SHARES = 20
DELETED_AT_ONCE = 200
# Input pictures, by the field that names their file.
_INPUTS = {"input_image": "image", "mask_image": "mask"}


def generation_create(
    *,
    owner: User,
    request: GenerationRequest,
    pictures: Mapping[str, bytes] = MappingProxyType({}),
    edited: Sequence[bytes] = (),
    loras: Sequence[LoraWish] = (),
    warnings: Sequence[dict[str, Any]] = (),
) -> Generation:
    """Stores a queued generation; once that is committed, a worker is woken and followers are told.

    Seed -1 is resolved to a random one now, so that every attempt and every replay uses the same. `pictures` are files
    as `generation.pictures.fitting` prepares them, PNG of width x height, by the column that names them; `edited`
    are those of an edit, PNG of any size.
    """
    if request.seed == -1:
        request = replace(request, seed=secrets.randbelow(MAX_SEED + 1))
    generation = Generation(owner=owner, warnings=list(warnings), **request.columns())
    return _generation_store(generation, pictures, edited, loras)


def _generation_store(
    generation: Generation,
    pictures: Mapping[str, bytes],
    edited: Sequence[bytes],
    loras: Sequence[LoraWish],
) -> Generation:
    """Writes the row, its input pictures (by the field that names the file) and its adapters, all or nothing."""
    generation.request_id = request_id.get()
    generation.base_url = base_url.get()
    generation.traceparent = traceparent.get()
    unowned: list[str] = []
    committing = False

    def keep(part: str, data: bytes) -> str:
        name = input_name(generation.id, part)
        unowned.append(name)
        input_store(name, data)
        generation.input_bytes += len(data)
        return name

    try:
        for field, data in pictures.items():
            setattr(generation, field, keep(_INPUTS[field], data))
        generation.input_images = [keep(f"image-{index}", data) for index, data in enumerate(edited)]
        with transaction.atomic():
            adapters = [(str(wish.lora.pk) if wish.lora else wish.repository, wish.scale) for wish in loras]
            generation.batch_key = batch_key(generation, adapters=adapters)
            generation_admit(generation)
            # First of all: whatever fails from here on, the files belong to a row.
            transaction.on_commit(unowned.clear)
            adapters_store(generation, loras, owner=generation.owner)
            generation_announce(generation=generation)
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
    _note_none(generation, "images", *(() if loras else ("adapters",)))
    return generation


def _note_none(generation: Generation, *names: str) -> None:
    """Notes that a new generation has none of these rows, so that nobody has to ask."""
    for name in names:
        rows = getattr(generation, name).all()
        rows._result_cache = []  # noqa: SLF001 - as a prefetch of Django does it
        generation.__dict__.setdefault("_prefetched_objects_cache", {})[name] = rows


def _generation_again(original: Generation, *, owner: User, reproducible: bool, **links: Any) -> Generation:
    checkpoint_check_supported(checkpoint_get(name=original.checkpoint_id))  # unless it has been disabled
    request = replace(
        original.request,
        reproducible=reproducible,
        priority=original.priority if owner.is_staff else min(original.priority, 0),
        cancel_on_disconnect=False,
    )
    if owner != original.owner:
        # A message is signed with its owner's secret, and meant for that owner's server.
        request = replace(request, webhook_url="", webhook_events=[])
    # Copies, so that either generation can be deleted.
    pictures = {field: input_read(name) for field in _INPUTS if (name := getattr(original, field))}
    edited = [input_read(name) for name in original.input_images]
    return _generation_store(
        Generation(owner=owner, **request.columns(), **links),
        pictures,
        edited,
        adapters_again(original, owner=owner),
    )


def generation_retry(*, generation: Generation, owner: User) -> Generation:
    """A new generation with the same resolved request, linked to the ended one.

    Raises GenerationActiveError, InputNotFoundError when the storage has lost an input picture, or
    LoraUnavailableError when one of its adapters has been deleted or withdrawn, and
    ModelNotFoundError when its checkpoint is disabled, ModelUnsupportedError when it turned out to be of no use.
    """
    if not generation.is_terminal:
        raise GenerationActiveError("Only a generation that has ended can be retried; cancel it first.")
    return _generation_again(
        generation, owner=owner, reproducible=generation.reproducible, retry_of=generation
    )


def generation_replay(*, generation: Generation, owner: User) -> Generation:
    """Runs a receipt again, alone; when it succeeds, `replay_verdict` says how close its pictures are.

    Raises NoReceiptError unless the original succeeded, InputNotFoundError when the storage has lost an input picture,
    or LoraUnavailableError when one of its adapters has been deleted or withdrawn, and
    ModelNotFoundError when its checkpoint is disabled, ModelUnsupportedError when it turned out to be of no use.
    """
    if generation.receipt is None:
        raise NoReceiptError("Only a generation that succeeded can be replayed.")
    return _generation_again(generation, owner=owner, reproducible=True, replay_of=generation)


def generation_cancel(*, generation: Generation) -> Generation:
    """Cancels: a queued one at once, a running one within a second or one step. Raises GenerationEndedError."""
    with transaction.atomic():
        # Held, so that a worker which is handing it back either sees the cancel or is done.
        list(Generation.objects.select_for_update().filter(pk=generation.pk))
        ended = generation_end(
            generation=generation, to=Status.CANCELED, origins=(Status.QUEUED,), cancel_requested_at=Now()
        )
        if not ended and not _cancel_ask(generation):
            generation.refresh_from_db()
            raise GenerationEndedError(f"The generation has already ended: {generation.status}.")
    generation.refresh_from_db()
    return generation


def _cancel_ask(generation: Generation) -> bool:
    """Leaves word for the worker that runs it; whether one does."""
    running = Generation.objects.filter(pk=generation.pk, status__in=ACTIVE)
    return running.update(cancel_requested_at=Now()) == 1


def generation_delete(*, generation: Generation) -> None:
    """Removes the generation and its files; one that has not ended is canceled first.

    Its worker notices within a second that its row is gone, and its writes are fenced, so nothing of it stays behind.
    The files follow the rows, see generation/receivers.py.
    """
    with transaction.atomic():
        generation_end(generation=generation, to=Status.CANCELED, reason="deleted")
        Generation.objects.filter(pk=generation.pk).delete()


def generations_delete(*, owner: User, ids: Collection[UUID]) -> list[UUID]:
    """Removes those of the owner's generations at once, as `generation_delete` does; returns which there were."""
    with transaction.atomic():
        # In one order, so that two of these cannot wait for each other.
        rows = Generation.objects.select_for_update().filter(owner=owner, pk__in=ids).order_by("pk")
        found = list(rows)
        for generation in found:
            if not generation.is_terminal:
                generation_end(generation=generation, to=Status.CANCELED, reason="deleted")
        Generation.objects.filter(pk__in=[generation.pk for generation in found]).delete()
    return [generation.pk for generation in found]


def owner_delete(*, owner: User) -> None:
    """Removes a user with all that is theirs, generations some at a time: each batch is a transaction of its own."""
    while ids := list(Generation.objects.filter(owner=owner).values_list("pk", flat=True)[:DELETED_AT_ONCE]):
        generations_delete(owner=owner, ids=ids)
    owner.delete()


def generation_mark(*, generation: Generation, favorite: bool) -> None:
    """Makes a generation a favorite, or none any more."""
    Generation.objects.filter(pk=generation.pk).update(favorite=favorite)
    generation.favorite = favorite


def share_create(*, generation: Generation, show_prompt: bool) -> Share:
    """A link under which anybody may see the pictures. Raises NothingToShareError, TooManySharesError."""
    if generation.status != Status.SUCCEEDED:
        raise NothingToShareError(f"The generation is {generation.status}.")
    if Share.objects.filter(generation=generation).count() >= MAX_SHARES:
        raise TooManySharesError(f"A generation has {MAX_SHARES} links at most: revoke one.")
    return Share.objects.create(generation=generation, show_prompt=show_prompt)


def shares_revoke(*, generation: Generation, share_id: UUID | None = None) -> None:
    """Ends a link to a generation, or all of them. Raises ShareNotFoundError."""
    rows = Share.objects.filter(generation=generation)
    if share_id is None:
        rows.delete()
    elif not rows.filter(pk=share_id).delete()[0]:
        raise ShareNotFoundError(f"The generation has no link {share_id}.")


def generations_abandon(*, ids: Iterable[UUID]) -> None:
    """Cancels what a client hung up on. Its Idempotency-Key is free again: it never saw an answer."""
    IdempotencyKey.objects.filter(generation_id__in=list(ids)).delete()
    for generation in Generation.objects.filter(pk__in=list(ids), status__in=ACTIVE):
        with contextlib.suppress(GenerationEndedError):
            generation_cancel(generation=generation)
