"""What goes, and when: old generations, files without rows, rows without files, and the books' old entries."""

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from uuid import UUID

from django.conf import settings
from django.core.files.storage import default_storage
from django.utils import timezone

from generation.errors import ImageNotFoundError, StorageUnreadableError
from generation.metrics.counters import SWEEP_ACTIONS
from generation.models import GeneratedImage, Generation
from generation.pictures.files import files_delete, image_read, thumbnail_names

logger = logging.getLogger(__name__)

# A file may lie there for a while before its row is committed: only older ones are left over.
ORPHAN_AGE = timedelta(hours=1)
ROOTS = ("generations", "inputs")
# What a system writes within this time: later than that even what nobody synced is on the disk.
CHECKED = timedelta(minutes=10)


@dataclass(frozen=True)
class Disagreements:
    """Where files and rows differed: files that no row names, and pictures and inputs whose files are gone."""

    files: tuple[str, ...]
    images: tuple[str, ...]
    inputs: tuple[str, ...]


def storage_reconcile(
    *, since: datetime | None = None, rows_too: bool = False, dry_run: bool = False
) -> Disagreements:
    """Makes files and rows agree, for generations created since then, by default for all.

    A file that no row names is deleted once it is an hour old. A picture's row whose file is gone is deleted with
    `rows_too`, else reported; where the storage holds nothing at all it is rather away, and nothing is touched. Input
    pictures that are gone are only reported, since their generation's row says what was asked for.
    """
    files = tuple(_orphans(since))
    images, missing = _images_without_file(since)
    inputs = tuple(_inputs_without_file(since))
    if not dry_run:
        files_delete(list(files))
    if rows_too and not dry_run:
        GeneratedImage.objects.filter(pk__in=missing).delete()
    if files or images or inputs:
        logger.warning(
            "files and rows disagreed",
            extra={"files": len(files), "images": len(images), "inputs": len(inputs)},
        )
    return Disagreements(files, images, inputs)


def pictures_check() -> tuple[str, ...]:
    """The files of the last minutes' pictures that are not what their rows say, which it reports; for a start.

    A disk that says it has written what it has not would show here after a power cut: the minutes are those before the
    newest picture. A shared storage is not asked: it answers for what it took.
    """
    if settings.MEDIA_IS_SHARED:
        return ()
    newest = GeneratedImage.objects.order_by("-pk")
    last = newest.first()
    if last is None:
        return ()
    recent = takewhile(lambda image: image.created_at >= last.created_at - CHECKED, newest.iterator())
    try:
        damaged = tuple(str(image.file.name) for image in recent if not _is_whole(image))
    except StorageUnreadableError as error:
        logger.warning("pictures not checked", extra={"reason": error.detail})
        return ()
    if damaged:
        SWEEP_ACTIONS.add("picture_damaged", amount=len(damaged))
        logger.error("pictures damaged", extra={"files": damaged[:100], "count": len(damaged)})
    return damaged


def _is_whole(image: GeneratedImage) -> bool:
    try:
        return hashlib.sha256(image_read(image)).hexdigest() == image.sha256
    except ImageNotFoundError:
        return False


def _orphans(since: datetime | None) -> Iterator[str]:
    young = timezone.now() - ORPHAN_AGE
    for root in ROOTS:
        for day in _days(root, since):
            names = [
                f"{folder}/{name}" for folder in _folders(day) for name in default_storage.listdir(folder)[1]
            ]
            known = _known(root, day)
            for name in names:
                # Somebody may delete it right now.
                with contextlib.suppress(FileNotFoundError):
                    if name not in known and default_storage.get_modified_time(name) < young:
                        yield name


def _days(root: str, since: datetime | None) -> Iterator[str]:
    """The folders of single days, `<root>/<year>/<month>/<day>`, from a day on."""
    first = f"{root}/{since:%Y/%m/%d}" if since else ""
    for year in _folders(root):
        for month in _folders(year):
            yield from (day for day in _folders(month) if day >= first)


def _folders(folder: str) -> list[str]:
    try:
        folders = default_storage.listdir(folder)[0]
    except FileNotFoundError:
        return []
    return [f"{folder}/{name}" for name in sorted(folders)]


def _known(root: str, day: str) -> set[str]:
    """The files of one day's folder that rows name, and thumbnails of those."""
    if root == "generations":
        pictures = GeneratedImage.objects.filter(file__startswith=f"{day}/").values_list("file", flat=True)
        return {name for picture in pictures for name in (picture, *thumbnail_names(picture))}
    known: set[str] = set()
    for field in ("input_image", "mask_image"):
        rows = Generation.objects.filter(**{f"{field}__startswith": f"{day}/"})
        known |= set(rows.values_list(field, flat=True))
    # Those of one generation lie in one folder.
    edits = Generation.objects.filter(input_images__0__startswith=f"{day}/")
    known |= {name for names in edits.values_list("input_images", flat=True) for name in names}
    return known


def _images_without_file(since: datetime | None) -> tuple[tuple[str, ...], list[UUID]]:
    """The names of pictures whose files are gone, and their rows' keys; nothing where the storage is away."""
    rows = GeneratedImage.objects.filter(created_at__gte=since) if since else GeneratedImage.objects.all()
    names = rows.order_by("pk").values_list("pk", "file").iterator()
    missing = [(pk, name) for pk, name in names if not default_storage.exists(name)]
    if missing and not any(_folders(root) for root in ROOTS):
        logger.error("storage away", extra={"images": len(missing)})
        return (), []
    return tuple(name for _, name in missing), [pk for pk, _ in missing]


def _inputs_without_file(since: datetime | None) -> Iterator[str]:
    rows = Generation.objects.exclude(input_image="", input_images=[])
    if since:
        rows = rows.filter(created_at__gte=since)
    for image, mask, images in (
        rows.order_by("pk").values_list("input_image", "mask_image", "input_images").iterator()
    ):
        yield from (name for name in (image, mask, *images) if name and not default_storage.exists(name))
