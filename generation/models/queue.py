"""How far the queue has come, and what work was asked for."""

from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db import models


@dataclass(frozen=True)
class Standing:
    """Where a queued generation stands: 1 is next. `starts_at` is None where nothing measured says it."""

    position: int
    starts_at: datetime | None


class QueueTurn(models.Model):
    """How far the queue of one priority has come: the turn that was next when a worker last claimed there."""

    priority = models.SmallIntegerField(primary_key=True)
    turn = models.BigIntegerField()

    def __str__(self) -> str:
        return f"priority {self.priority}: turn {self.turn}"


class WorkEntry(models.Model):
    """What one generation, or one order to a worker, counts towards a user's work limit; it outlives what it is of."""

    generation_id = models.UUIDField(primary_key=True)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    pixel_steps = models.BigIntegerField(help_text="Pixels of all pictures x steps.")
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        indexes = [models.Index(fields=["owner", "created_at"], name="work_entry_owner")]

    def __str__(self) -> str:
        return f"{self.generation_id}: {self.pixel_steps}"
