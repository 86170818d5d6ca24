"""Where this host keeps files that grow."""

from pathlib import Path

from django.conf import settings


def folders_kept() -> dict[str, Path]:
    """The folders, by what is in them; pictures only where they are not in a bucket."""
    kept = {"models": settings.MODEL_CACHE_DIR, "LoRA": settings.LORA_CACHE_DIR}
    if not settings.MEDIA_IS_SHARED:
        kept["pictures"] = settings.MEDIA_ROOT
    return {what: Path(folder) for what, folder in kept.items()}


def folder_existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    while not folder.exists():
        folder = folder.parent
    return folder
