"""What changes adapters: upload, load from the Hub, delete, use. Every change of a state passes through here."""

import errno
import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.core.files.uploadedfile import UploadedFile
from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from imagegen_project.common.queues import DOWNLOADS_QUEUE, entries_push
from imagegen_project.common.safetensors_header import HeaderError
from loras.choices import LoraSource, LoraState
from loras.distilled import scheduler_told
from loras.errors import (
    LoraIncompatibleError,
    LoraInUseError,
    LoraInvalidError,
    LoraNameTakenError,
    LoraStorageFullError,
    LoraTooLargeError,
    LoraUnavailableError,
)
from loras.files import being_written, content_path, content_release, incoming_path, lora_path, upload_copy
from loras.key_styles import AdapterError
from loras.models import MAX_NAME_CHARACTERS, Lora
from loras.reading import AdapterFacts, read_adapter
from loras.selectors import loras_pinned, owned_bytes, uploaded_bytes
from loras.signals import lora_failed
from models_registry.choices import PASSING, DownloadProblem, Family
from models_registry.models import Checkpoint

logger = logging.getLogger(__name__)

# By dotted name: the web process never imports the tasks.
PROCESS_LORA = "loras.tasks.process_lora"


def lora_move(*, lora_id: UUID, to: LoraState, origins: tuple[LoraState, ...], **values: Any) -> bool:
    """The one way a state changes: a conditional UPDATE. True when *this* call moved it."""
    values = {"error_code": "", "error_detail": ""} | values
    rows = Lora.objects.filter(pk=lora_id, state__in=origins)
    return rows.update(state=to, updated_at=Now(), **values) == 1


def facts_values(facts: AdapterFacts) -> dict[str, Any]:
    """What a file says, as values of a row; its trigger words only stand in where nobody gave any."""
    return {
        "family": facts.family,
        "key_style": facts.key_style,
        "rank": facts.rank,
        "alpha": facts.alpha,
        "targets": list(facts.targets),
        "text_encoders": list(facts.text_encoders),
    }


def lora_inspect(*, owner: User, file: "UploadedFile[Any]") -> AdapterFacts:
    """Reads an upload's header, and sees whether there is room for it, in all and in its owner's share.

    Raises LoraTooLargeError, LoraInvalidError or LoraStorageFullError, which blame the field `file`.
    """
    size = file.size or 0
    if size > settings.LORA_MAX_UPLOAD_BYTES:
        limit = settings.LORA_MAX_UPLOAD_BYTES / 1024 / 1024
        raise LoraTooLargeError(
            f"The file may have at most {limit:g} MiB (LORA_MAX_UPLOAD_MB).", param="file"
        )
    # Uploads are never pruned, so together they may not take more than the cache may hold.
    if uploaded_bytes() + size > settings.LORA_CACHE_MAX_BYTES:
        raise LoraStorageFullError("Uploads fill the space for LoRA (LORA_CACHE_MAX_MB).", param="file")
    if not owner.is_staff and owned_bytes(owner) + size > settings.LORA_USER_SHARE_BYTES:
        limit = settings.LORA_USER_SHARE_BYTES / 1024 / 1024
        raise LoraStorageFullError(
            f"Your LoRA may take {limit:g} MiB together (LORA_USER_SHARE_PERCENT); delete some.",
            param="file",
        )
    try:
        return read_adapter(cast(BinaryIO, file), size=size)
    except (HeaderError, AdapterError) as error:
        raise LoraInvalidError(f"The file cannot be used: {error.reason}.", param="file") from error


def lora_upload(
    *, owner: User, name: str, file: "UploadedFile[Any]", trigger_words: Iterable[str] = ()
) -> Lora:
    """Stores an upload, whose weights the task worker then looks at; nothing stays of one that is refused.

    Raises LoraTooLargeError, LoraInvalidError, LoraNameTakenError or LoraStorageFullError.
    """
    facts = lora_inspect(owner=owner, file=file)
    lora = Lora(
        owner=owner,
        name=name,
        source=LoraSource.UPLOAD,
        state=LoraState.CHECKING,
        size_bytes=file.size or 0,
        trigger_words=list(trigger_words) or list(facts.trigger_words),
        scheduler=scheduler_told(facts.title, name, family=facts.family),
        **facts_values(facts),
    )
    path = incoming_path(lora.id)
    with _incoming(path), transaction.atomic():
        _insert(lora)
        upload_copy(file, path)
        _enqueue(lora)
    return lora


@contextmanager
def _incoming(path: Path) -> Iterator[None]:
    """A file that comes to wait for its check; nothing stays of it where that fails. Raises LoraStorageFullError."""
    try:
        with being_written(path):
            yield
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise LoraStorageFullError("The disk is full.", param="file") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def lora_load(
    *,
    owner: User,
    repository: str,
    weight_name: str = "",
    revision: str = "",
    name: str = "",
) -> Lora:
    """The caller's adapter of this file on the Hub, registered if need be, and asked for unless it is on disk.

    `name` is derived from the repository's where none is given. Raises LoraNameTakenError.
    """
    wanted = {"repository": repository, "wanted_weight_name": weight_name, "wanted_revision": revision}
    rows = Lora.objects.filter(owner=owner, source=LoraSource.HUB, **wanted)
    lora = (rows.filter(name=name) if name else rows).first()
    if lora is not None:
        return lora_request(lora=lora)
    name = name or _free_name(owner, repository, weight_name)
    lora = Lora(
        owner=owner,
        name=name,
        source=LoraSource.HUB,
        state=LoraState.DOWNLOADING,
        scheduler=scheduler_told(weight_name, repository, name),
        **wanted,
    )
    with transaction.atomic():
        _insert(lora)
        _enqueue(lora)
    return lora


def lora_request(*, lora: Lora) -> Lora:
    """Asks for the file of an adapter that is not on disk; a no-op where it is, or is on its way.

    Raises LoraUnavailableError for an upload: there is nowhere to get it from again.
    """
    missing = (LoraState.ABSENT, LoraState.BROKEN)
    if lora.state in missing:
        if lora.source != LoraSource.HUB:
            raise LoraUnavailableError(f"The file of {lora.name} is gone or broken; upload it again.")
        with transaction.atomic():
            if lora_move(lora_id=lora.id, to=LoraState.DOWNLOADING, origins=missing):
                _enqueue(lora)
        lora.refresh_from_db()
    return lora


def lora_validate(*, lora: Lora) -> bool:
    """Has every weight of an upload that is there looked at again; False where there is no file of its own to look at.

    Until then it cannot be used. The file stays: what waits to be checked is a copy. Raises LoraStorageFullError.
    """
    if lora.source != LoraSource.UPLOAD or not content_path(lora.sha256).is_file():
        return False
    path = incoming_path(lora.id)
    # The copy is kept from being taken for a leftover until it is committed that the row waits for it.
    with ExitStack() as until_committed, transaction.atomic():
        if not lora_move(
            lora_id=lora.id, to=LoraState.CHECKING, origins=(LoraState.PRESENT, LoraState.BROKEN)
        ):
            return False
        path.unlink(missing_ok=True)  # of a process that died
        until_committed.enter_context(_incoming(path))
        shutil.copyfile(content_path(lora.sha256), path)
        _enqueue(lora)
    return True


def lora_enqueue(*, lora: Lora) -> None:
    """Asks the task worker, again, to see to a pending adapter."""
    with transaction.atomic():
        _enqueue(lora)


def lora_delete(*, user: User, lora: Lora) -> None:
    """Removes an adapter, and its file unless another one has the same.

    Raises PermissionDenied unless it is the user's own or they are staff, and LoraInUseError while work needs it.
    """
    if lora.source == LoraSource.BUILTIN:
        raise PermissionDenied("What ships with the project can only be disabled.")
    if lora.owner_id != user.pk and not user.is_staff:
        raise PermissionDenied("Only its owner may delete a LoRA.")
    if lora.id in loras_pinned():
        raise LoraInUseError("Queued or running generations need it; cancel them first.")
    sha256, incoming = lora.sha256, incoming_path(lora.id)
    lora.delete()
    incoming.unlink(missing_ok=True)
    content_release(sha256)


def lora_touch(*, ids: Iterable[UUID]) -> None:
    """Marks adapters as used now, which saves their files from being pruned first."""
    Lora.objects.filter(pk__in=list(ids)).update(last_used_at=Now())


def lora_mark_lost(*, lora: Lora) -> None:
    """Says that a present adapter's file has gone: one from the Hub can be had again, an upload is broken."""
    if lora.source == LoraSource.HUB:
        lora_move(lora_id=lora.id, to=LoraState.ABSENT, origins=(LoraState.PRESENT,))
    else:
        lora_break(lora=lora, problem=DownloadProblem.UNUSABLE, detail="Its file is gone from the disk.")


def lora_break(*, lora: Lora, problem: DownloadProblem, detail: str) -> None:
    """Says why an adapter cannot be used; its file goes unless another row has the same.

    One from the Hub that did not come for a reason that passes is only `absent`.
    """
    states = (LoraState.DOWNLOADING, LoraState.CHECKING, LoraState.PRESENT)
    passes = problem in PASSING and lora.source == LoraSource.HUB
    to = LoraState.ABSENT if passes else LoraState.BROKEN
    if lora_move(lora_id=lora.id, to=to, origins=states, error_code=problem, error_detail=detail):
        logger.warning("LoRA broken", extra={"lora": str(lora.id), "reason": detail})
        content_release(lora.sha256)
        lora.refresh_from_db()
        lora_failed.send(sender=Lora, lora=lora)


def lora_check_fits(*, lora: Lora, checkpoint: Checkpoint, param: str = "loras") -> None:
    """Whether the adapter can be used with the checkpoint; `param` is the request's field to blame.

    Raises LoraUnavailableError when it is disabled, broken or not read yet, LoraIncompatibleError when it was made for
    another family.
    """
    if not lora.enabled:
        raise LoraUnavailableError(f"The LoRA {lora.name} is disabled.", param=param)
    if lora.state == LoraState.BROKEN:
        raise LoraUnavailableError(f"The LoRA {lora.name} is broken: {lora.error_detail}", param=param)
    if not lora.family and lora.state == LoraState.ABSENT:
        raise LoraUnavailableError(f"The LoRA {lora.name} did not come: {lora.error_detail}", param=param)
    if not lora.family:
        raise LoraUnavailableError(
            f"The LoRA {lora.name} is still being downloaded; try again once it is there.",
            param=param,
            headers={"Retry-After": "5"},
        )
    # Chroma is FLUX.1 with less in it; what was made for that fits what is left.
    fits = {lora.family} | ({Family.CHROMA.value} if lora.family == Family.FLUX else set())
    if checkpoint.family not in fits:
        made_for, asked = Family(lora.family).label, Family(checkpoint.family).label
        raise LoraIncompatibleError(
            f"The LoRA {lora.name} was made for {made_for}; the model {checkpoint.id} is {asked}.",
            param=param,
            lora_family=lora.family,
            model_family=checkpoint.family,
        )


def loras_tell_schedulers(*, dry_run: bool = False) -> list[Lora]:
    """Notes what LoRA were distilled for whose rows do not say it, by the names that tell; returns those.

    New rows say it from the start. Here it is told of those from before; and of those for which staff said none.
    """
    told = []
    for lora in Lora.objects.filter(scheduler="").order_by("id"):
        names = (_title(lora), lora.weight_name, lora.repository, lora.name)
        lora.scheduler = scheduler_told(*names, family=lora.family)
        if lora.scheduler:
            told.append(lora)
            if not dry_run:
                Lora.objects.filter(pk=lora.pk, scheduler="").update(scheduler=lora.scheduler)
    return told


def _title(lora: Lora) -> str:
    """What a LoRA's file calls itself; "" where it does not, or is not there."""
    try:
        path = lora_path(lora)
        with path.open("rb") as file:
            return read_adapter(file, size=path.stat().st_size).title
    except (OSError, HeaderError, AdapterError):
        return ""


def _insert(lora: Lora) -> None:
    try:
        with transaction.atomic():
            lora.save(force_insert=True)
    except IntegrityError as error:
        raise LoraNameTakenError(f"You have another LoRA {lora.name!r}.", param="name") from error


def _enqueue(lora: Lora) -> None:
    """Without Redis nothing is pushed; the sweep asks again for what is pending."""
    Lora.objects.filter(pk=lora.pk).update(requested_at=Now())
    transaction.on_commit(partial(entries_push, DOWNLOADS_QUEUE, PROCESS_LORA, str(lora.id)))


def _free_name(owner: User, repository: str, weight_name: str) -> str:
    """A name made from the file's, with a number behind it where that is taken."""
    stem = weight_name.rpartition("/")[2].removesuffix(".safetensors") or repository.rpartition("/")[2]
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in stem.lower())
    base = plain.strip("-")[: MAX_NAME_CHARACTERS - 8] or "adapter"
    taken = set(Lora.objects.filter(owner=owner, name__startswith=base).values_list("name", flat=True))
    return next(
        name
        for number in range(1, len(taken) + 2)
        if (name := base if number == 1 else f"{base}-{number}") not in taken
    )
