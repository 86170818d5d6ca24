"""`manage.py sweep`."""

from argparse import ArgumentParser
from typing import Any

from generation.upkeep.stored_files import storage_reconcile
from generation.upkeep.sweep import sweep
from imagegen_project.common.commands import ReportingCommand, UsageError


class Command(ReportingCommand):
    """Puts right what crashes left behind, once."""

    help = (
        "Puts right what crashes left behind: takes back jobs of lost workers, restores missing wake-ups, ends orders "
        "to workers that are gone. The workers do this all the time; it is safe beside them. With --files it also "
        "compares stored files with rows, both ways; with --files --dry-run it changes nothing."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The command's options."""
        parser.add_argument(
            "--files",
            action="store_true",
            help="Delete files that no row names and rows of pictures whose files are gone.",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="With --files: change nothing, only say what would go."
        )

    def handle(self, *args: Any, files: bool, dry_run: bool, **options: Any) -> None:
        """Sweeps once, and says what was done. Raises UsageError."""
        if dry_run and not files:
            raise UsageError("--dry-run says what --files would delete: give both. A sweep has no dry run.")
        if not dry_run:
            self._sweep()
        if files:
            self._reconcile(dry_run=dry_run)

    def _sweep(self) -> None:
        done = sweep()
        self.document["swept"] = done
        for what, times in done.items():
            self.say(f"{times} {what}.")
        self.say("Swept.")

    def _reconcile(self, *, dry_run: bool) -> None:
        found = storage_reconcile(rows_too=True, dry_run=dry_run)
        done = "would be deleted" if dry_run else "deleted"
        self.document |= {
            "files": list(found.files),
            "rows": list(found.images),
            "inputs_missing": list(found.inputs),
            "dry_run": dry_run,
        }
        for name in found.files:
            self.say(f"{name}: no row names it, {done}")
        for name in found.images:
            self.say(f"{name}: its file is gone, row {done}")
        for name in found.inputs:
            self.say(f"{name}: an input picture's file is gone")
        self.say(
            f"{len(found.files)} files and {len(found.images)} rows {done}; "
            f"{len(found.inputs)} input pictures missing."
        )
