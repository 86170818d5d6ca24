"""What is claimable, and what comes first."""

from django.db.models import Exists, OuterRef, QuerySet

from generation.choices import Status
from generation.models import Generation, GenerationLora
from loras.choices import LoraState
from models_registry.choices import DiskState
from models_registry.selectors import checkpoints_here

# How queued generations follow one another; `generation/queue/turns.py` deals out the turns.
QUEUE_ORDER = ("-priority", "turn", "id")


def generations_claimable(*, device_class: str | None = None) -> QuerySet[Generation]:
    """The queued generations that could run now: the files of their checkpoint and adapters are there.

    With a `device_class`, those that a worker of that class may run.
    """
    missing = GenerationLora.objects.filter(generation=OuterRef("pk")).exclude(lora__state=LoraState.PRESENT)
    queued = Generation.objects.filter(status=Status.QUEUED, checkpoint__state=DiskState.PRESENT)
    if device_class is not None:
        queued = queued.filter(device_class__in={"", device_class})
    return queued.exclude(Exists(missing))


def generations_for(*, device_class: str | None = None) -> QuerySet[Generation]:
    """Of these, the ones whose model is on this host."""
    return generations_claimable(device_class=device_class).filter(checkpoint__in=checkpoints_here())


def generation_next(*, device_class: str | None = None) -> Generation | None:
    """The generation that would be claimed next, without claiming it."""
    rows = generations_for(device_class=device_class)
    return rows.select_related("checkpoint").order_by(*QUEUE_ORDER).first()
