"""`manage.py web`."""

import os
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from imagegen_project.common.commands import positive
from imagegen_project.standalone.service import StandaloneError, web_command, web_environment
from imagegen_project.standalone.web_processes import web_processes_run


class Command(BaseCommand):
    """Runs one web process, or several on one port."""

    help = (
        "Runs a web process (daphne): the API, its sockets and the pages. It imports no torch. Any number of them "
        "share PostgreSQL, Redis and the storage of pictures: with --processes on one port, where one core is short."
    )
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The command's options."""
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
        parser.add_argument("--port", type=int, default=8000, help="port to listen on (default 8000)")
        parser.add_argument(
            "--processes", type=positive, default=1, help="how many processes share the port (default 1)"
        )

    def handle(self, *args: Any, host: str, port: int, processes: int, **options: Any) -> None:
        """Becomes the web process, so that signals reach it, or watches several. Raises CommandError."""
        if processes == 1:
            command = web_command(host=host, port=port)
            os.execve(command[0], command, web_environment())  # noqa: S606 - its own program, no shell
        try:
            web_processes_run(
                host=host,
                port=port,
                processes=processes,
                report=lambda text: self.stderr.write(self.style.ERROR(text)),
            )
        except StandaloneError as error:
            raise CommandError(str(error)) from error
