"""`manage.py tell_schedulers`."""

from argparse import ArgumentParser
from typing import Any

from imagegen_project.common.commands import ReportingCommand
from loras.services import loras_tell_schedulers


class Command(ReportingCommand):
    """Notes what older LoRA were distilled for."""

    help = (
        "Notes the scheduler that LoRA were distilled for (LCM, TCD, Hyper-SD, Lightning, DMD2), by their names, "
        "where they were stored before that was done by itself. A LoRA that has one keeps it."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The command's options."""
        parser.add_argument("--dry-run", action="store_true", help="Only say what would be noted.")

    def handle(self, *args: Any, dry_run: bool, **options: Any) -> None:
        """Notes, and says what."""
        told = loras_tell_schedulers(dry_run=dry_run)
        self.document |= {
            "loras": [{"id": str(lora.id), "name": lora.name, "scheduler": lora.scheduler} for lora in told],
            "dry_run": dry_run,
        }
        for lora in told:
            self.say(f"{lora.id}  {lora.name}  {lora.scheduler}")
        self.say(f"{len(told)} LoRA {'would be' if dry_run else 'were'} told.")
