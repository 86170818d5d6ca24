"""Large request bodies come from the disk in pieces.

The server (daphne) writes them to a temporary file, and would then put all of it into the application's queue at once:
an upload would lie in memory whole. So the queue gets the open file instead, and the gate reads it piece by piece. Nor
may the library below (Twisted) read forms for itself: nobody asks it for their fields, an upload would lie in memory
several times, and it answers a form without parts with an empty 400 of its own.
"""

import asyncio
from io import BytesIO
from typing import IO, Any

from daphne.http_protocol import WebRequest

from imagegen_project.common.asgi import Message, Receive

PIECE_BYTES = 64 * 1024


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


def keep_bodies_on_disk() -> None:
    """Changes the server's handling of large bodies; for the web process, which reads them with `in_pieces`."""
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
