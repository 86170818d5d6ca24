"""`manage.py web`."""

import os
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from imagegen_project.standalone.service import web_command, web_environment


class Command(BaseCommand):
    """Runs one web process."""

    help = (
        "Runs a web process (daphne): the API, its sockets and the pages. It imports no torch. Any number of them "
        "share PostgreSQL, Redis and the storage of pictures."
    )
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The command's options."""
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
        parser.add_argument("--port", type=int, default=8000, help="port to listen on (default 8000)")

    def handle(self, *args: Any, host: str, port: int, **options: Any) -> None:
        """Becomes the web process, so that signals reach it."""
        command = web_command(host=host, port=port)
        os.execve(command[0], command, web_environment())  # noqa: S606 - its own program, no shell
