"""What is claimable, and what comes first."""

from collections.abc import Collection

from django.db.models import Exists, OuterRef, QuerySet

from generation.choices import Fit, Status
from generation.errors import ModelTooLargeError
from generation.models import Generation, GenerationLora, Worker
from loras.choices import LoraState
from models_registry.choices import DiskState
from models_registry.models import Checkpoint
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


def generations_for(
    *, device_class: str | None = None, too_large: Collection[str] = ()
) -> QuerySet[Generation]:
    """Of these, the ones whose model is on this host, less the models that are `too_large` for the worker."""
    here = set(checkpoints_here()) - set(too_large)
    return generations_claimable(device_class=device_class).filter(checkpoint__in=here)


def generation_next(*, device_class: str | None = None, too_large: Collection[str] = ()) -> Generation | None:
    """The generation that would be claimed next, without claiming it."""
    rows = generations_for(device_class=device_class, too_large=too_large)
    return rows.select_related("checkpoint").order_by(*QUEUE_ORDER).first()


def too_large_everywhere(*, checkpoint: Checkpoint, device_class: str = "") -> str:
    """Why no live worker (of a class) can run a checkpoint; "" where one can, or cannot say yet, or none lives."""
    workers = Worker.objects.live().order_by("-memory_total_mb")
    plans = [
        worker.model_plans.get(checkpoint.pk)
        for worker in (workers.filter(device_class=device_class) if device_class else workers)
    ]
    if not plans or not all(plan and plan["verdict"] == Fit.TOO_LARGE for plan in plans):
        return ""
    return f"{checkpoint.pk} does not fit into the memory of any worker. {plans[0]['reason']}"


def checkpoint_check_fits(checkpoint: Checkpoint) -> None:
    """Raises ModelTooLargeError where no live worker has the memory for a checkpoint."""
    if reason := too_large_everywhere(checkpoint=checkpoint):
        raise ModelTooLargeError(reason, param="model")
