"""Deleting old generations."""

from dataclasses import dataclass
from datetime import timedelta

from django.db.models import Sum
from django.utils import timezone

from generation.choices import TERMINAL
from generation.models import GeneratedImage, Generation
from generation.services import generation_delete


@dataclass(frozen=True)
class Pruned:
    """What was deleted, or would be."""

    generations: int
    size_bytes: int


def generations_prune(*, older_than: timedelta, username: str = "", dry_run: bool = False) -> Pruned:
    """Deletes generations that ended longer ago than that, with their files; optionally of one user only."""
    rows = Generation.objects.filter(status__in=TERMINAL, finished_at__lt=timezone.now() - older_than)
    if username:
        rows = rows.filter(owner__username=username)
    images = GeneratedImage.objects.filter(generation__in=rows)
    size = images.aggregate(total=Sum("size_bytes"))["total"] or 0
    size += rows.aggregate(total=Sum("input_bytes"))["total"] or 0
    if dry_run:
        return Pruned(rows.count(), size)
    pruned = 0
    for generation in rows.order_by("id").iterator():
        generation_delete(generation=generation)
        pruned += 1
    return Pruned(pruned, size)
