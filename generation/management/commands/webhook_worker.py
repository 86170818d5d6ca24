"""`manage.py webhook_worker`."""

from typing import Any

from django.core.management.base import BaseCommand

from generation.webhooks.worker import webhook_worker_run


class Command(BaseCommand):
    """Runs one webhook worker."""

    help = (
        "Runs a webhook worker: it posts what generations' webhooks asked for, signed, and tries again what did not "
        "arrive. It needs no GPU and imports no torch. One is enough; several share the work."
    )
    # They would import every page and view, for nothing that runs here.
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        """Runs until it is told to stop."""
        webhook_worker_run()
