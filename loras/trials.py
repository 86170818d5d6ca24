"""Adapters that take GPU workers down: what is being put on a model is noted, so that a death has a name.

A file that two workers did not survive is kept out of use, under whatever name it comes. A trial that ends, well or
not, is forgotten: the worker survived it.
"""

import logging
from collections.abc import Collection
from typing import Final

from django.db.models import Count
from django.db.models.functions import Now

from loras.choices import LoraSource
from loras.models import Lora, LoraTrial
from loras.services import lora_break
from models_registry.choices import DownloadProblem

logger = logging.getLogger(__name__)

MAX_DEATHS: Final = 2
QUARANTINED: Final = f"{MAX_DEATHS} GPU workers died while putting it on a model"


def trial_begin(*, sha256: str, worker: str) -> None:
    """Notes that a worker is about to put a file on a model."""
    LoraTrial.objects.create(sha256=sha256, worker=worker)


def trial_end(*, sha256: str, worker: str, harmless: bool) -> None:
    """Notes that the worker survived it; what was attached is `harmless`, and earlier deaths were not its fault."""
    trials = LoraTrial.objects.filter(sha256=sha256)
    (trials if harmless else trials.filter(worker=worker, died_at__isnull=True)).delete()


def trials_judge(*, alive: Collection[str]) -> None:
    """Takes trials of workers that live no more for their deaths, and puts files with two of them out of use."""
    open_trials = LoraTrial.objects.filter(died_at__isnull=True)
    if not open_trials.exclude(worker__in=alive).update(died_at=Now()):
        return
    deaths = LoraTrial.objects.filter(died_at__isnull=False).values("sha256").annotate(deaths=Count("pk"))
    for sha256 in deaths.filter(deaths__gte=MAX_DEATHS).values_list("sha256", flat=True):
        for lora in Lora.objects.filter(sha256=sha256).exclude(source=LoraSource.BUILTIN):
            logger.error("LoRA quarantined", extra={"lora": str(lora.id), "sha256": sha256})
            lora_break(lora=lora, problem=DownloadProblem.UNUSABLE, detail=f"{QUARANTINED}.")


def content_is_quarantined(sha256: str) -> bool:
    """Whether a file has taken as many workers down as one may."""
    return LoraTrial.objects.filter(sha256=sha256, died_at__isnull=False).count() >= MAX_DEATHS
