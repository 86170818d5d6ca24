"""Pictures that a request names by an address: fetched as webhooks are sent, to public hosts only and within bounds."""

import threading
from typing import Final

from django.conf import settings

from generation.errors import FetchBusyError, InvalidImageError
from generation.pictures.reading import MAX_PICTURE_BYTES
from imagegen_project import __version__
from imagegen_project.common.outgoing import UnreachableError, outgoing_request, url_problem

OFF: Final = "off"
ANY: Final = "any"
_TIMEOUT_S: Final = 10.0
# A slow server holds a request's thread meanwhile.
_PLACES: Final = threading.BoundedSemaphore(2)


def picture_fetch(url: str) -> bytes:
    """What lies at an https address, MAX_PICTURE_BYTES at most, as `FETCH_PICTURES` allows.

    Raises InvalidImageError, and FetchBusyError while as many are fetched as this process does at once.
    """
    if settings.FETCH_PICTURES == OFF:
        raise InvalidImageError(
            "This server fetches no pictures; send it as base64, a data URI or a form's file."
        )
    anywhere = settings.FETCH_PICTURES == ANY
    problem = url_problem(url, allow_private=anywhere)
    if problem is None and not anywhere and not url.startswith("https:"):
        problem = "Only https:// addresses are fetched."
    if problem:
        raise InvalidImageError(problem)
    if not _PLACES.acquire(blocking=False):
        raise FetchBusyError("Try again soon, or send the picture itself.", headers={"Retry-After": "5"})
    try:
        answer = outgoing_request(
            "GET",
            url,
            headers={"User-Agent": f"imagegen/{__version__}", "Accept": "image/png, image/jpeg, image/webp"},
            timeout_s=_TIMEOUT_S,
            allow_private=anywhere,
            max_bytes=MAX_PICTURE_BYTES,
        )
    except UnreachableError as error:
        raise InvalidImageError(f"The picture could not be fetched: {error}.") from error
    finally:
        _PLACES.release()
    if answer.status != 200:
        raise InvalidImageError(f"The picture could not be fetched: its server answered {answer.status}.")
    return answer.body
