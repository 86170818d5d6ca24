"""The files of pictures in Django's storage: the one place that names, reads, writes and deletes them."""

import hashlib
from dataclasses import dataclass
from uuid import UUID

from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.utils import timezone

from generation.errors import ImageNotFoundError, InputNotFoundError
from generation.models import GeneratedImage, Generation


def files_delete(names: list[str]) -> None:
    """Removes stored files; one that is already gone is fine."""
    for name in names:
        default_storage.delete(name)


def input_name(generation_id: UUID, part: str) -> str:
    """Where a new generation's `image` or `mask` is kept: named by its id alone, never by the client."""
    return f"inputs/{timezone.now():%Y/%m/%d}/{generation_id}/{part}.png"


def input_store(name: str, data: bytes) -> None:
    """Keeps an input picture under a name of `input_name`."""
    default_storage.save(name, ContentFile(data))


def input_read(name: str) -> bytes:
    """A kept input picture. Raises InputNotFoundError when there is none, or when the storage has lost it."""
    if not name:
        raise InputNotFoundError("The generation was not given one.")
    try:
        return _read(name)
    except FileNotFoundError as error:
        raise InputNotFoundError("Its file is gone from the storage.") from error


def image_read(image: GeneratedImage) -> bytes:
    """A finished picture's file. Raises ImageNotFoundError when the storage has lost it."""
    try:
        return _read(str(image.file.name))
    except FileNotFoundError as error:
        raise ImageNotFoundError("Its file is gone from the storage.") from error


def _read(name: str) -> bytes:
    with default_storage.open(name) as file:
        data: bytes = file.read()
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


def image_store(generation: Generation, image: FinishedImage) -> str:
    """Writes a finished picture, under a name that says which attempt made it; returns the name."""
    day = generation.created_at.strftime("%Y/%m/%d")
    suffix = image.content_type.removeprefix("image/")
    name = f"generations/{day}/{generation.id}/{generation.attempt}-{image.index}.{suffix}"
    default_storage.delete(name)  # of an earlier call that was rolled back
    stored: str = default_storage.save(name, ContentFile(image.data))
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
