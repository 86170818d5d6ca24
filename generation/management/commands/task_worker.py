"""`manage.py task_worker`."""

from typing import Any

from django.core.management.base import BaseCommand

from generation.upkeep.worker import task_worker_run


class Command(BaseCommand):
    """Runs one task worker."""

    help = (
        "Runs a task worker: it downloads models, needs no GPU and imports no torch. It sweeps too, so that a job "
        "whose worker died ends or returns to the queue even while no GPU worker lives. One per host is enough."
    )
    # They would import every page and view, for nothing that runs here.
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        """Runs until it is told to stop."""
        task_worker_run()
