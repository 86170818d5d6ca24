"""`manage.py worker_alive`."""

import socket
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from generation.selectors import live_workers


class Command(BaseCommand):
    """A container's health check."""

    help = "Ends with 0 when a GPU worker of this host gave a sign of life within the last 15 seconds, else with 1."
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        """Looks once. Raises CommandError."""
        host = socket.gethostname()
        if not live_workers().filter(hostname=host).exists():
            raise CommandError(f"No GPU worker of {host} is alive.")
