"""Reading the adapters."""

import re
from typing import Any
from uuid import UUID

from django.contrib.auth.models import AnonymousUser, User
from django.db.models import F, Max, OuterRef, Q, QuerySet, Subquery

from imagegen_project.common.ids import UUID_REGEX
from loras.choices import PENDING, LoraSource, LoraState
from loras.errors import LoraNotFoundError
from loras.models import Lora
from loras.signals import lora_holders, pinned_loras

_ID = re.compile(UUID_REGEX)


def loras_visible(user: User | AnonymousUser) -> QuerySet[Lora]:
    """The adapters a user may see: their own, and the enabled ones that are shared; staff see all."""
    rows = Lora.objects.select_related("owner")
    return rows if user.is_staff else rows.filter(Q(owner_id=user.pk) | Q(shared=True, enabled=True))


def lora_get(*, user: User | AnonymousUser, name: str, param: str = "") -> Lora:
    """One adapter by its id, its name, or the repository it came from; the caller's own before a shared one.

    Raises LoraNotFoundError, for somebody else's private one too; `param` is the request's field to blame.
    """
    visible = loras_visible(user)
    is_id = _ID.fullmatch(name) is not None
    rows = (
        visible.filter(pk=UUID(name)) if is_id else visible.filter(Q(name=name) | Q(repository=name or None))
    )
    # What belongs to the caller, then what everybody sees; staff find other people's adapters by their id.
    found = rows.filter(owner_id=user.pk).first() or rows.filter(shared=True).first()
    if found is None and user.is_staff and is_id:
        found = rows.first()
    if found is None:
        raise LoraNotFoundError(f"No LoRA {name!r}.", param=param)
    return found


def loras_pinned() -> set[UUID]:
    """The adapters that queued or running work needs, as the receivers of `pinned_loras` say."""
    answers: Any = pinned_loras.send(sender=Lora)
    return {pk for _, ids in answers for pk in ids}


def holders_by_content() -> dict[str, list[str]]:
    """The names of the workers that hold each file, by its SHA-256."""
    holders: dict[str, list[str]] = {}
    answers: Any = lora_holders.send(sender=Lora)
    for _, held in answers:
        for sha256, workers in held.items():
            holders.setdefault(sha256, []).extend(workers)
    return holders


def content_pinned() -> set[str]:
    """The SHA-256 of files that may not be pruned: those in use, and uploads, which cannot be had again."""
    rows = Lora.objects.filter(state=LoraState.PRESENT)
    kept = rows.filter(Q(source=LoraSource.UPLOAD) | Q(pk__in=loras_pinned()))
    return {str(sha256) for sha256 in kept.values_list("sha256", flat=True)}


def loras_in_turn() -> list[tuple[UUID, int]]:
    """The first pending adapter of each owner and that owner, the owner whose last turn is longest ago first."""
    last_turns = (
        Lora.objects.filter(owner=OuterRef("owner")).values("owner").annotate(at=Max("taken_at")).values("at")
    )
    firsts = Lora.objects.filter(state__in=PENDING).order_by("owner", "requested_at", "id").distinct("owner")
    rows = Lora.objects.filter(pk__in=firsts.values("pk")).annotate(last_turn=Subquery(last_turns))
    in_turn = rows.order_by(F("last_turn").asc(nulls_first=True), "requested_at", "id")
    return list(in_turn.values_list("pk", "owner_id"))


def owned_bytes(owner: User) -> int:
    """How much disk a user's adapters take, waiting uploads included; equal files count once."""
    rows = Lora.objects.filter(owner=owner)
    present = dict(rows.filter(state=LoraState.PRESENT).values_list("sha256", "size_bytes"))
    waiting = rows.filter(state=LoraState.CHECKING).values_list("size_bytes", flat=True)
    return sum(present.values()) + sum(waiting)


def uploaded_bytes() -> int:
    """How much disk the uploads take, waiting ones included; equal files count once."""
    rows = Lora.objects.filter(source=LoraSource.UPLOAD)
    present = dict(rows.filter(state=LoraState.PRESENT).values_list("sha256", "size_bytes"))
    waiting = rows.filter(state=LoraState.CHECKING).values_list("size_bytes", flat=True)
    return sum(present.values()) + sum(waiting)
