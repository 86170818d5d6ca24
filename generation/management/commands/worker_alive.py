"""`manage.py worker_alive`."""

import socket
from typing import Any

from django.core.management.base import CommandError
from django.db import DatabaseError
from psycopg_pool import PoolTimeout

from generation.models import Worker
from imagegen_project.common.commands import ReportingCommand


class Command(ReportingCommand):
    """A container's health check."""

    help = (
        "Ends with 0 when a GPU worker of this host gave a sign of life within the last 15 seconds, else with 1. "
        "Also with 0 when the database cannot be asked: a restart would only lose the models on the GPU."
    )
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        """Looks once. Raises CommandError."""
        host = socket.gethostname()
        try:
            alive = Worker.objects.live().filter(hostname=host).exists()
        except (DatabaseError, PoolTimeout) as error:
            self.document |= {"host": host, "alive": None}
            self.stderr.write(f"The database cannot be asked: {error}")
            return
        self.document |= {"host": host, "alive": alive}
        if not alive:
            raise CommandError(f"No GPU worker of {host} is alive.")
        self.say(f"A GPU worker of {host} is alive.")
