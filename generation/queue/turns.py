"""Owners take turns inside a priority."""

from django.db.models import Max

from generation.choices import ACTIVE
from generation.models import Generation, QueueTurn


def turn_next(*, owner_id: int, priority: int) -> int:
    """The turn of an owner's next generation. The caller holds the owner's lock: two must not get the same."""
    reached = QueueTurn.objects.filter(priority=priority).values_list("turn", flat=True).first() or 0
    owned = Generation.objects.filter(owner_id=owner_id, priority=priority, status__in=ACTIVE)
    last: int = owned.aggregate(last=Max("turn"))["last"] or 0
    return max(reached, last) + 1


def turn_reached(*, priority: int, turn: int) -> None:
    """Notes which turn was next at a claim; it never goes back, whatever returned to the queue meanwhile."""
    if not QueueTurn.objects.filter(priority=priority, turn__lt=turn).update(turn=turn):
        QueueTurn.objects.bulk_create([QueueTurn(priority=priority, turn=turn)], ignore_conflicts=True)
