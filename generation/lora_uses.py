"""The adapters of a generation, from the request to the worker."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from django.contrib.auth.models import User

from generation.models import Generation, GenerationLora
from loras.distilled import scheduler_told
from loras.errors import LoraUnavailableError
from loras.models import Lora
from loras.selectors import loras_visible
from loras.services import lora_load, lora_request, lora_touch


@dataclass(frozen=True)
class LoraWish:
    """One adapter of a request: a registered one, or a repository of the Hub that is to be registered."""

    scale: float
    lora: Lora | None = None
    repository: str = ""

    @property
    def name(self) -> str:
        """What it is called: a repository that is not registered yet by its own name."""
        return self.lora.name if self.lora else self.repository

    @property
    def scheduler(self) -> str:
        """The scheduler that it was distilled for, "" for none in particular."""
        return self.lora.scheduler if self.lora else scheduler_told(self.repository)


def adapters_store(generation: Generation, wishes: Sequence[LoraWish], *, owner: User) -> None:
    """Notes a new generation's adapters, and asks for those that are not on disk. Part of its transaction.

    Raises LoraUnavailableError or LoraNameTakenError.
    """
    for position, wish in enumerate(wishes):
        lora = (
            lora_request(lora=wish.lora) if wish.lora else lora_load(owner=owner, repository=wish.repository)
        )
        GenerationLora.objects.create(
            generation=generation, position=position, lora=lora, name=lora.name, scale=wish.scale
        )
    if used := [wish.lora.pk for wish in wishes if wish.lora]:
        lora_touch(ids=used)


def adapters_again(original: Generation, *, owner: User) -> list[LoraWish]:
    """What a retry or replay asks for: the same adapters.

    Raises LoraUnavailableError when one has been deleted, disabled, or is not shared with its new owner any more.
    """
    wishes = []
    for use in original.adapters.select_related("lora"):
        if use.lora is None:
            raise LoraUnavailableError(f"The LoRA {use.name} has been deleted.", param="loras")
        if not loras_visible(owner).filter(pk=use.lora.pk, enabled=True).exists():
            raise LoraUnavailableError(f"The LoRA {use.name} may not be used any more.", param="loras")
        wishes.append(LoraWish(use.scale, lora=use.lora))
    return wishes


def adapters_needed() -> Iterable[object]:
    """The ids of adapters that queued or running generations use."""
    uses = GenerationLora.objects.filter(generation__finished_at=None, lora__isnull=False)
    return uses.values_list("lora_id", flat=True).distinct()
