"""The files of pictures in Django's storage: the one place that names, reads, writes and deletes them."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.db import transaction
from django.utils import timezone
from django.utils.http import content_disposition_header
from django.utils.text import slugify

from generation.errors import ImageNotFoundError, InputNotFoundError, StorageUnreadableError
from generation.models import GeneratedImage, Generation
from generation.pictures.availability import storage_refused
from imagegen_project.common.storage import STORAGE_ERRORS

logger = logging.getLogger(__name__)

THUMBNAIL_WIDTHS: Final = (128, 256, 512)
_MAX_NAME_CHARACTERS: Final = 60


def files_delete(names: Iterable[str]) -> None:
    """Removes stored files; one that is already gone is fine, one that cannot go now is left to the orphan sweep."""
    for name in names:
        try:
            default_storage.delete(name)
        except STORAGE_ERRORS as error:
            logger.warning("file not deleted", extra={"file": name, "reason": type(error).__name__})


def files_delete_on_commit(names: Sequence[str]) -> None:
    """The same once this transaction is committed; whatever goes wrong there, what else follows it happens."""

    # A function with a name: Django logs that of a robust one which failed, and a partial has none.
    def delete() -> None:
        files_delete(names)

    transaction.on_commit(delete, robust=True)


def input_name(generation_id: UUID, part: str) -> str:
    """Where a new generation's `image` or `mask` is kept: named by its id alone, never by the client."""
    return f"inputs/{timezone.now():%Y/%m/%d}/{generation_id}/{part}.png"


def input_store(name: str, data: bytes) -> None:
    """Keeps an input picture under a name of `input_name`. Raises StorageUnavailableError."""
    _store(name, data)


def input_read(name: str) -> bytes:
    """A kept input picture.

    Raises InputNotFoundError when there is none, or when the storage has lost it; and StorageUnreadableError.
    """
    if not name:
        raise InputNotFoundError("The generation was not given one.")
    try:
        return _read(name)
    except FileNotFoundError as error:
        raise InputNotFoundError("Its file is gone from the storage.") from error


def image_read(image: GeneratedImage) -> bytes:
    """A finished picture's file.

    Raises ImageNotFoundError when the storage has lost it, or a part of it; and StorageUnreadableError.
    """
    try:
        data = _read(str(image.file.name))
    except FileNotFoundError as error:
        raise ImageNotFoundError("Its file is gone from the storage.") from error
    if len(data) != image.size_bytes:
        raise ImageNotFoundError("Its file is damaged; a replay draws it again.")
    return data


def picture_disposition(image: GeneratedImage, content_type: str, *, by_prompt: bool = True) -> str:
    """The `Content-Disposition` of a picture: shown in a browser, and kept under a name, which its prompt may give."""
    prompt = image.generation.prompt if by_prompt else ""
    words = slugify(prompt, allow_unicode=True)[:_MAX_NAME_CHARACTERS].strip("-_")
    suffix = content_type.removeprefix("image/")
    name = f"{words or 'picture'}-{image.seed}.{suffix}"
    return str(content_disposition_header(as_attachment=False, filename=name))


def thumbnail_names(name: str) -> list[str]:
    """Where the thumbnails of a picture's file are kept, as far as there are any: beside it."""
    return [_thumbnail_name(name, width) for width in THUMBNAIL_WIDTHS]


def _thumbnail_name(name: str, width: int) -> str:
    return f"{name.rpartition('.')[0]}.w{width}.webp"


def thumbnail_read(image: GeneratedImage, width: int) -> bytes | None:
    """A picture's kept thumbnail, None where none has been made. Raises StorageUnreadableError."""
    try:
        return _read(_thumbnail_name(str(image.file.name), width))
    except FileNotFoundError:
        return None


def thumbnail_store(image: GeneratedImage, width: int, data: bytes) -> None:
    """Keeps a thumbnail beside its picture. Raises StorageUnavailableError."""
    _store(_thumbnail_name(str(image.file.name), width), data)


def _read(name: str) -> bytes:
    try:
        with default_storage.open(name) as file:
            data: bytes = file.read()
    except FileNotFoundError:
        raise
    except STORAGE_ERRORS as error:
        raise StorageUnreadableError("The storage of pictures does not answer or refuses.") from error
    return data


@dataclass(frozen=True)
class FinishedImage:
    """One picture as the engine made it, under its number in the generation."""

    data: bytes
    pixel_sha256: str
    width: int
    height: int
    seed: int
    index: int = 0
    content_type: str = "image/png"


def images_store(generation: Generation, images: Sequence[FinishedImage]) -> list[str]:
    """Writes all pictures of an attempt, or none; returns their names. Raises StorageUnavailableError."""
    names: list[str] = []
    try:
        for image in images:
            names.append(image_store(generation, image))  # noqa: PERF401 - a failure deletes those before it
    except BaseException:
        files_delete(names)
        raise
    return names


def image_store(generation: Generation, image: FinishedImage) -> str:
    """Writes a finished picture, under a name that says which attempt made it; returns the name.

    It takes the place of what an earlier call wrote. Raises StorageUnavailableError.
    """
    day = generation.created_at.strftime("%Y/%m/%d")
    suffix = image.content_type.removeprefix("image/")
    return _store(
        f"generations/{day}/{generation.id}/{generation.attempt}-{image.index}.{suffix}", image.data
    )


def _store(name: str, data: bytes) -> str:
    try:
        stored: str = default_storage.save(name, ContentFile(data))
    except STORAGE_ERRORS as error:
        raise storage_refused(error) from error
    return stored


def image_row(generation: Generation, image: FinishedImage, name: str) -> GeneratedImage:
    """The row of a written picture, not stored yet."""
    return GeneratedImage(
        generation=generation,
        index=image.index,
        file=name,
        content_type=image.content_type,
        size_bytes=len(image.data),
        sha256=hashlib.sha256(image.data).hexdigest(),
        pixel_sha256=image.pixel_sha256,
        width=image.width,
        height=image.height,
        seed=image.seed,
    )
