"""What is claimable, and what comes first."""

import json
from collections.abc import Collection, Sequence
from typing import Any, Final, cast

from django.conf import settings
from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import Exists, F, Func, JSONField, OuterRef, QuerySet

from generation.choices import UNFIT, Fit, Status
from generation.errors import ModelNeedsLibraryError, ModelTooLargeError
from generation.models import Generation, GenerationLora, Worker
from imagegen_project.common.prepared import Prepared, open_value
from loras.choices import LoraState
from models_registry.choices import DiskState
from models_registry.models import Checkpoint
from models_registry.selectors import (
    checkpoint_check_supported,
    checkpoint_default,
    checkpoint_get,
    checkpoints_by_default,
    checkpoints_called,
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


def generations_for(*, device_class: str | None = None, unfit: Collection[str] = ()) -> QuerySet[Generation]:
    """Of these, the ones whose model is on this host, less the `unfit` ones, which the worker cannot run."""
    here = set(checkpoints_here()) - set(unfit)
    return generations_claimable(device_class=device_class).filter(checkpoint__in=here)


def generation_next(*, device_class: str | None = None, unfit: Collection[str] = ()) -> Generation | None:
    """The generation that would be claimed next, without claiming it."""
    rows = generations_for(device_class=device_class, unfit=unfit)
    return rows.select_related("checkpoint").order_by(*QUEUE_ORDER).first()


def unfit_everywhere(
    *, checkpoint: Checkpoint, device_class: str = ""
) -> ModelTooLargeError | ModelNeedsLibraryError | None:
    """Why no live worker (of a class) can run a checkpoint; None where one can, or cannot say yet, or none lives."""
    workers = Worker.objects.live().order_by("-memory_total_mb")
    return _unfit(
        checkpoint,
        [
            worker.model_plans.get(checkpoint.pk)
            for worker in (workers.filter(device_class=device_class) if device_class else workers)
        ],
    )


def _unfit(
    checkpoint: Checkpoint, plans: Sequence[dict[str, str] | None]
) -> ModelTooLargeError | ModelNeedsLibraryError | None:
    """The same, by what the workers say of it, the one with the most memory first."""
    said = [plan for plan in plans if plan and plan["verdict"] in UNFIT]
    if not said or len(said) < len(plans):
        return None
    for plan in said:
        if plan["verdict"] == Fit.NEEDS_LIBRARY:  # which can be helped
            return ModelNeedsLibraryError(
                f"{checkpoint.pk} cannot be loaded by any worker. {plan['reason']}", param="model"
            )
    reason = f"{checkpoint.pk} does not fit into the memory of any worker. {said[0]['reason']}"
    return ModelTooLargeError(reason, param="model")


def _with_plans(rows: QuerySet[Checkpoint]) -> QuerySet[Any]:
    """The same, with what the live workers say of them as `plans`, the one with the most memory first."""
    plan = Func(
        F("model_plans"),
        OuterRef("pk"),
        template="(%(expressions)s)",
        arg_joiner=" -> ",
        output_field=JSONField(),
    )
    plans = ArraySubquery(Worker.objects.live().order_by("-memory_total_mb").values(plan=plan))
    return rows.annotate(plans=plans)


_CALLED: Final = Prepared(
    lambda: _with_plans(checkpoints_called(open_value("name")).filter(enabled=True))[:1]
)
_BY_DEFAULT: Final = Prepared(lambda: _with_plans(checkpoints_by_default())[:1])


def checkpoint_for(*, name: str | None) -> Checkpoint:
    """The checkpoint that a request means by a name, or by none; in one query with what the workers say of it.

    Raises ModelNotFoundError, ModelUnsupportedError, and where no live worker has the memory for it or the library that
    reads it ModelTooLargeError or ModelNeedsLibraryError.
    """
    called = settings.DEFAULT_MODEL_ID or None if name is None else name
    checkpoint = _BY_DEFAULT.first() if called is None else _CALLED.first(name=called)
    if checkpoint is None:
        # They say why there is none, or find one that has just been enabled.
        found = checkpoint_default() if name is None else checkpoint_get(name=name)
        return checkpoint_for(name=found.pk)
    checkpoint_check_supported(checkpoint)
    if unfit := _unfit(checkpoint, [json.loads(plan) if plan else None for plan in checkpoint.plans]):
        raise unfit
    return cast(Checkpoint, checkpoint)
