"""Commands that end, and say what they did: in words, or as one JSON document."""

import json
from argparse import ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser


def positive(text: str) -> int:
    """A number of things, at least one, from a command line. Raises ArgumentTypeError."""
    if not text.isdigit() or int(text) < 1:
        reason = "must be 1 or more"
        raise ArgumentTypeError(reason)
    return int(text)


class UsageError(CommandError):
    """The command line makes no sense, or names what does not exist: the exit status is that of such requests."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, returncode=2)


class ReportingCommand(BaseCommand):
    """Takes `--json`: then it prints `document`, which `handle` fills, in place of what it says."""

    document: dict[str, Any]
    _as_json = False

    def create_parser(self, prog_name: str, subcommand: str, **options: Any) -> CommandParser:
        """The command line, with the one option that all of them have."""
        parser = super().create_parser(prog_name, subcommand, **options)
        parser.add_argument("--json", action="store_true", help="Print one JSON document.")
        return parser

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Runs it; what kept it from its end is in the document too. Raises CommandError."""
        self._as_json, self.document = bool(options.get("json")), {}
        try:
            return super().execute(*args, **options)
        except CommandError as error:
            code = "usage" if isinstance(error, UsageError) else "failed"
            self.document["error"] = {"code": code, "detail": str(error)}
            raise
        finally:
            if self._as_json and self.document:
                self.stdout.write(json.dumps(self.document, indent=2, default=str))

    def say(self, words: str) -> None:
        """A line for people."""
        if not self._as_json:
            self.stdout.write(words)
