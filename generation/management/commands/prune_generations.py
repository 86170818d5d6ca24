"""`manage.py prune_generations`."""

import re
from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User

from generation.upkeep.pruning import generations_prune
from imagegen_project.common.commands import ReportingCommand, UsageError

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,5})([mhdw])", text)
    if match is None:
        raise ArgumentTypeError("a number and a unit, such as 12h, 30d or 8w")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


class Command(ReportingCommand):
    """Deletes old generations."""

    help = "Deletes generations that ended long ago, with their pictures. What waits or runs stays."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The command's options."""
        parser.add_argument(
            "--older-than",
            type=_age,
            required=True,
            metavar="AGE",
            help="Since their end: a number and m, h, d or w.",
        )
        parser.add_argument("--user", default="", help="Only this user's.")
        parser.add_argument("--dry-run", action="store_true", help="Only say what would go.")

    def handle(self, *args: Any, older_than: timedelta, user: str, dry_run: bool, **options: Any) -> None:
        """Deletes, and says how much. Raises UsageError for a user that there is not."""
        if user and not User.objects.filter(username=user).exists():
            raise UsageError(f"There is no user called {user!r}.")
        pruned = generations_prune(older_than=older_than, username=user, dry_run=dry_run)
        done = "would be deleted" if dry_run else "deleted"
        self.document |= {"generations": pruned.generations, "bytes": pruned.size_bytes, "dry_run": dry_run}
        self.say(f"{pruned.generations} generations ({pruned.size_bytes / 2**20:.1f} MiB) {done}.")
