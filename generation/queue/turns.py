"""Owners take turns inside a priority."""

from generation.models import QueueTurn


def turn_reached(*, priority: int, turn: int) -> None:
    """Notes which turn was next at a claim; it never goes back, whatever returned to the queue meanwhile."""
    if not QueueTurn.objects.filter(priority=priority, turn__lt=turn).update(turn=turn):
        QueueTurn.objects.bulk_create([QueueTurn(priority=priority, turn=turn)], ignore_conflicts=True)
