"""`manage.py prefetch_models`."""

from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.db.models import Q
from tqdm import tqdm

from imagegen_project.common.commands import ReportingCommand, UsageError
from models_registry.classifier import classifier_prefetch
from models_registry.downloads import checkpoint_prefetch
from models_registry.errors import DownloadFailedError, DownloadLostError
from models_registry.models import Checkpoint


class Command(ReportingCommand):
    """Downloads checkpoints before they are needed."""

    help = (
        "Downloads the safetensors files of models, and of the classifier that SAFETY_MODEL names, into "
        "MODEL_CACHE_DIR and verifies them. What is there already "
        "is left alone, what was interrupted goes on. Ends with 1 when one failed, with 2 when a name is nobody's, "
        "and says why."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Which ones."""
        parser.add_argument("ids", nargs="*", metavar="ID", help="registry id or repository name")
        parser.add_argument("--all-enabled", action="store_true", help="every enabled model")

    def handle(self, *args: Any, ids: list[str], all_enabled: bool, **options: Any) -> None:
        """Downloads one after the other; one that fails does not keep the others from coming."""
        chosen = self._chosen(ids, all_enabled=all_enabled)
        failures = 0 if self._prefetch_classifier() else 1
        for checkpoint in chosen:
            failures += not self._prefetch(checkpoint)
        if failures:
            raise CommandError(f"{failures} could not be downloaded.")

    def _prefetch_classifier(self) -> bool:
        """The safety filter's, where one is set: without it no picture could be checked."""
        try:
            if classifier_prefetch(name=settings.SAFETY_MODEL):
                self._told(settings.SAFETY_MODEL, "downloaded")
        except DownloadFailedError as error:
            self._failed(settings.SAFETY_MODEL, error)
            return False
        return True

    def _chosen(self, ids: list[str], *, all_enabled: bool) -> list[Checkpoint]:
        if not ids and not all_enabled:
            raise UsageError("Name models, or give --all-enabled.")
        chosen = {row.pk: row for row in Checkpoint.objects.filter(enabled=True)} if all_enabled else {}
        for name in ids:
            row = Checkpoint.objects.filter(Q(id=name) | Q(repository=name)).first()
            if row is None:
                known = ", ".join(Checkpoint.objects.values_list("id", flat=True))
                raise UsageError(f"No model is called {name!r} here. Known: {known}.")
            chosen[row.pk] = row
        return list(chosen.values())

    def _prefetch(self, checkpoint: Checkpoint) -> bool:
        with tqdm(desc=checkpoint.pk, unit="B", unit_scale=True, disable=None) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            try:
                fetched = checkpoint_prefetch(checkpoint=checkpoint, on_progress=show)
            except (DownloadFailedError, DownloadLostError) as error:
                bar.close()
                self._failed(checkpoint.pk, error)
                return False
        self._told(checkpoint.pk, "downloaded" if fetched else "already there")
        return True

    def _told(self, name: str, what: str) -> None:
        self.document.setdefault("models", {})[name] = what
        self.say(f"{name}: {what}")

    def _failed(self, name: str, error: Exception) -> None:
        self.document.setdefault("models", {})[name] = str(error)
        self.stderr.write(f"{name}: {error}")
