"""Small versions of finished pictures: made when somebody first asks for one, then kept beside the picture."""

import io
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from PIL import Image

from generation.errors import ImageNotFoundError, StorageUnavailableError
from generation.models import GeneratedImage
from generation.pictures.files import image_read, thumbnail_read, thumbnail_store
from generation.pictures.reading import PICTURE_FORMATS

logger = logging.getLogger(__name__)

THUMBNAIL_TYPE: Final = "image/webp"
_QUALITY: Final = 80
# Each holds a whole picture while it works, beside threads that have better things to do.
_POOL: Final = ThreadPoolExecutor(max_workers=2, thread_name_prefix="thumbnail")
_making: dict[tuple[str, int], Future[bytes]] = {}
_lock = threading.Lock()


def thumbnail_of(image: GeneratedImage, width: int) -> bytes:
    """A picture as WebP, `width` pixels wide or as wide as it is. Made once, however many ask at a time.

    Raises ImageNotFoundError and StorageUnreadableError.
    """
    if kept := thumbnail_read(image, width):
        return kept
    key = (str(image.file.name), width)
    with _lock:
        future = _making.get(key)
        if future is None:
            future = _making[key] = _POOL.submit(_make, image, width)
            future.add_done_callback(lambda done: _making.pop(key, None))
    return future.result()


def _make(image: GeneratedImage, width: int) -> bytes:
    if kept := thumbnail_read(image, width):
        return kept  # whoever asked before was just done
    data = _drawn(image_read(image), width)
    try:
        thumbnail_store(image, width, data)
    except StorageUnavailableError as error:
        # It can be seen nevertheless, and is made again for whoever asks next.
        logger.warning("thumbnail not kept", extra={"reason": error.detail})
    return data


def _drawn(data: bytes, width: int) -> bytes:
    buffer = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as image:
            image.thumbnail((width, image.height), Image.Resampling.LANCZOS)
            image.convert("RGB").save(buffer, format="WEBP", quality=_QUALITY)
    except OSError as error:
        raise ImageNotFoundError("Its file is damaged; a replay draws it again.") from error
    return buffer.getvalue()
