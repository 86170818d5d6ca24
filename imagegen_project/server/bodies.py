"""Large request bodies come from the disk in pieces.

The server (daphne) writes them to a temporary file, and would then put all of it into the application's queue at once:
an upload would lie in memory whole. So the queue gets the open file instead, and the gate reads it piece by piece. Nor
may the library below (Twisted) read forms for itself: nobody asks it for their fields, an upload would lie in memory
several times, and it answers a form without parts with an empty 400 of its own. The application only hears of a body
that has come whole, so what is over the limit is thrown away as it comes: one byte more than the limit is kept, which
the gate refuses.
"""

import asyncio
import re
from io import BytesIO
from typing import IO, Any
from urllib.parse import unquote

from daphne.http_protocol import WebRequest
from django.conf import settings

from imagegen_project.common.asgi import Message, Receive

PIECE_BYTES = 64 * 1024
# Where files are uploaded, and what a form may add to one.
UPLOAD_PATHS = re.compile(r"/(?:api/)?v1/loras/upload/?|/admin/loras/lora/add/")
FORM_BYTES = 64 * 1024


def body_limit(path: str) -> int:
    """Bytes that a body may have: adapters' files are larger than any other request."""
    if UPLOAD_PATHS.fullmatch(path):
        return max(settings.MAX_BODY_BYTES, settings.LORA_MAX_UPLOAD_BYTES + FORM_BYTES)
    limit: int = settings.MAX_BODY_BYTES
    return limit


class BodyFile(bytes):
    """Stands in a message for a body that lies in `file`; an empty body to whoever does not know that."""

    file: IO[bytes]


class _FiledContent:
    """What the server takes for a request's content: one read gives the file, not what is in it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        """The file, as an empty body; everything when no size is asked for."""
        if size < 0:
            return self._file.read()
        body = BodyFile()
        body.file = self._file
        return body


_process = WebRequest.process


def _process_filed(request: Any) -> Any:
    if not isinstance(request.content, BytesIO):  # small bodies are in memory anyway
        request.content = _FiledContent(request.content)
    return _process(request)


_received = WebRequest.requestReceived


def _received_unread(request: Any, *line: bytes) -> None:
    request._parsePOSTFormSubmission = False  # noqa: SLF001 - nothing else says so
    _received(request, *line)


_write = WebRequest.handleContentChunk


def _write_within_limit(request: Any, data: bytes) -> None:
    uri: bytes = request.channel._path  # noqa: SLF001 - the request itself learns of it afterwards
    limit = body_limit(unquote(uri.partition(b"?")[0].decode("latin-1")))
    if (room := limit + 1 - request.content.tell()) > 0:
        _write(request, data[:room])


def keep_bodies_on_disk() -> None:
    """Changes the server's handling of large bodies; for the web process, which reads them with `in_pieces`."""
    WebRequest.handleContentChunk = _write_within_limit
    WebRequest.process = _process_filed
    WebRequest.requestReceived = _received_unread


def in_pieces(receive: Receive) -> Receive:
    """Messages as they would have come: a body that lies in a file becomes one message a piece."""
    file: IO[bytes] | None = None

    async def receive_piece() -> Message:
        nonlocal file
        if file is None:
            message = await receive()
            if not isinstance(body := message.get("body"), BodyFile):
                return message
            file = body.file
        await asyncio.sleep(0)  # others get their turn between two pieces
        try:
            piece = file.read(PIECE_BYTES)
        except ValueError:  # closed: the client went away
            file = None
            return {"type": "http.disconnect"}
        more = len(piece) == PIECE_BYTES
        if not more:
            file = None
        return {"type": "http.request", "body": piece, "more_body": more}

    return receive_piece
