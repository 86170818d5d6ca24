"""`manage.py prune_cache`."""

from argparse import ArgumentParser
from typing import Any

from imagegen_project.common.commands import ReportingCommand
from loras.cache import cache_prune, cache_repair


class Command(ReportingCommand):
    """Brings the adapters' folder within its budget."""

    help = (
        "Removes LoRA files until LORA_CACHE_MAX_MB suffices, the least recently used first, and what crashes "
        "left behind. Files in use and uploads stay. A removed LoRA is downloaded again when it is asked for."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The command's options."""
        parser.add_argument("--dry-run", action="store_true", help="Only say what would be removed.")

    def handle(self, *args: Any, dry_run: bool, **options: Any) -> None:
        """Removes, and says what."""
        if not dry_run:
            cache_repair()
        pruned = cache_prune(dry_run=dry_run)
        self.document |= {
            "files": [
                {"sha256": item.path.name, "bytes": item.size_bytes, "names": list(item.names)}
                for item in pruned
            ],
            "dry_run": dry_run,
        }
        for item in pruned:
            names = ", ".join(item.names) or "nobody's"
            self.say(f"{item.path.name[:12]}  {item.size_bytes / 1024 / 1024:.1f} MiB  {names}")
        freed = sum(item.size_bytes for item in pruned) / 1024 / 1024
        done = "would be removed" if dry_run else "removed"
        self.say(f"{len(pruned)} files {done}, {freed:.1f} MiB.")
