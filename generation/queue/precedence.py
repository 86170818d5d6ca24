"""What is claimable, and what comes first."""

from collections.abc import Collection, Sequence
from typing import Any, cast

from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import Exists, F, Func, JSONField, OuterRef, QuerySet

from generation.choices import Fit, Status
from generation.errors import ModelTooLargeError
from generation.models import Generation, GenerationLora, Worker
from loras.choices import LoraState
from models_registry.choices import DiskState
from models_registry.models import Checkpoint
from models_registry.selectors import (
    checkpoint_check_supported,
    checkpoint_default,
    checkpoint_get,
    checkpoints_enabled,
    checkpoints_here,
)

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
    return _too_large(
        checkpoint,
        [
            worker.model_plans.get(checkpoint.pk)
            for worker in (workers.filter(device_class=device_class) if device_class else workers)
        ],
    )


def _too_large(checkpoint: Checkpoint, plans: Sequence[dict[str, str] | None]) -> str:
    """The same, by what the workers say of it, the one with the most memory first."""
    if not plans or not all(plan and plan["verdict"] == Fit.TOO_LARGE for plan in plans):
        return ""
    reason = (plans[0] or {})["reason"]
    return f"{checkpoint.pk} does not fit into the memory of any worker. {reason}"


def checkpoint_for(*, name: str | None) -> Checkpoint:
    """The checkpoint that a request means by a name, or by none; in one query with what the workers say of it.

    Raises ModelNotFoundError, ModelUnsupportedError, and ModelTooLargeError where no live worker has the memory for it.
    """
    plan = Func(
        F("model_plans"),
        OuterRef("pk"),
        template="(%(expressions)s)",
        arg_joiner=" -> ",
        output_field=JSONField(),
    )
    plans = ArraySubquery(Worker.objects.live().order_by("-memory_total_mb").values(plan=plan))
    rows = checkpoints_enabled().annotate(plans=plans)
    checkpoint: Any = (
        checkpoint_default(among=rows) if name is None else checkpoint_get(name=name, among=rows)
    )
    checkpoint_check_supported(checkpoint)
    if reason := _too_large(checkpoint, checkpoint.plans):
        raise ModelTooLargeError(reason, param="model")
    return cast(Checkpoint, checkpoint)
