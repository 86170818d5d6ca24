"""What lies in the model cache, and the command's way to fill it."""

from pathlib import Path

from pytest_django import Settings

from models_registry.downloads import checkpoint_prefetch
from models_registry.models import Checkpoint


def on_disk(row: Checkpoint, settings: Settings) -> set[str]:
    """Every visible file of the checkpoint's folders; what begins with a dot is nobody's to load."""
    root = Path(settings.MODEL_CACHE_DIR) / row.pk
    paths = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    return {str(Path(*path.parts[1:])) for path in paths if not path.parts[0].startswith(".")}


def staged(row: Checkpoint, settings: Settings) -> dict[str, int]:
    """What an interrupted download left: path to bytes."""
    root = Path(settings.MODEL_CACHE_DIR) / row.pk
    return {
        str(Path(*path.relative_to(root).parts[1:])): path.stat().st_size
        for path in root.glob(".staging-*/**/*")
        if path.is_file()
    }


def prefetch(row: Checkpoint) -> bool:
    """As the command does, with the row as it stands."""
    row.refresh_from_db()
    return checkpoint_prefetch(checkpoint=row)
