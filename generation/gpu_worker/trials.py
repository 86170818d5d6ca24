"""Putting an adapter on a model, on trial: should this process not survive it, others know which file it was."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from django.db import DatabaseError
from psycopg_pool import PoolTimeout

from generation.engine import AdapterUse
from generation.models import Worker
from loras.trials import trial_begin, trial_end, trials_judge

logger = logging.getLogger(__name__)


@contextmanager
def attach_on_trial(use: AdapterUse, *, worker: str) -> Iterator[None]:
    """Notes the attempt for the length of the block; without the database it is made without a note."""
    harmless = False
    try:
        trial_begin(sha256=use.sha256, worker=worker)
    except (DatabaseError, PoolTimeout):
        logger.warning("LoRA attached without a note", extra={"sha256": use.sha256})
    try:
        yield
        harmless = True
    finally:
        with suppress(DatabaseError, PoolTimeout):
            trial_end(sha256=use.sha256, worker=worker, harmless=harmless)


def trials_settle(*, reborn: str = "") -> None:
    """Judges the trials of workers that are gone; `reborn` is a name whose former process cannot be alive."""
    names = Worker.objects.live().exclude(name=reborn).values_list("name", flat=True)
    trials_judge(alive=list(names))
