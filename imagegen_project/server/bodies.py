"""How much of a request's body is taken, from whom, and where it is kept until the application reads it.

The server only calls the application once a body has come whole. So what is decided here is decided while it comes:
every route has a limit; a few kilobytes are taken from anybody, into memory, and of more the sender has to be somebody,
which is looked up before a byte of it is stored; larger bodies lie in temporary files, whose sum is bounded for one
user and for all. What is refused is refused at once, and what still comes of it is thrown away.
"""

import asyncio
import contextlib
import logging
import re
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import IO, Any, Final, TypeAlias

from django.conf import settings

from imagegen_project.common.asgi import Message, Receive

logger = logging.getLogger("imagegen.request")

PIECE_BYTES: Final = 64 * 1024
# Of a body: what anybody may send, where the route takes so much.
ANYBODY_BYTES: Final = 32 * 1024
# How often a body comes to lie in TMPDIR: here, as Django's copy and, of an upload, as the form's file.
COPIES: Final = 2
UPLOAD_COPIES: Final = 3
# Of all bodies together: what may lie in memory.
MEMORY_BYTES: Final = 32 * 1024 * 1024
# Slower than this, or when nothing comes, a body is given up after BODY_PATIENCE_S.
LEAST_BYTES_PER_S: Final = 4096

# Where a body has no meaning at all.
PROBE_PATHS: Final = re.compile(r"/health/?|/health/ready/?|/metrics/?")
# Where files are uploaded, and what a form may add to one.
UPLOAD_PATHS: Final = re.compile(r"/(?:api/)?v1/loras/upload/?|/admin/loras/lora/add/")
FORM_BYTES: Final = 64 * 1024
# Where pictures come, most of them in base64, or the longest prompts, each character of which may be escaped as twelve.
PICTURE_PATHS: Final = re.compile(
    r"/(?:api/)?v1/(?:generations|png-info|(?:generate/)?(?:txt2img|img2img))/?"
    r"|/v1/images/(?:generations|edits|variations)/?"
    r"|/hf/.+"
    r"|/sdapi/v1/(?:txt2img|img2img|png-info|interrogate|extra-single-image|extra-batch-images)/?"
)
# Where JSON without pictures comes, or a form of the admin.
TEXT_PATHS: Final = re.compile(r"/(?:api/)?v1/.*|/sdapi/v1/.*|/admin/(?!login/).+")
TEXT_BYTES: Final = 256 * 1024
# Everywhere else: what a login form needs.
PAGE_BYTES: Final = 8 * 1024


def body_limit(path: str, content_type: str = "") -> int:
    """Bytes that a body may have at this path."""
    limit: int = settings.MAX_BODY_BYTES
    if PROBE_PATHS.fullmatch(path):
        return 0
    # Such a form takes ten times its size once it is read, and nobody sends a picture in one.
    is_form = content_type.strip().lower().startswith("application/x-www-form-urlencoded")
    if UPLOAD_PATHS.fullmatch(path) and not is_form:
        return max(limit, settings.LORA_MAX_UPLOAD_BYTES + FORM_BYTES)
    if PICTURE_PATHS.fullmatch(path) and not is_form:
        return limit
    takes_text = TEXT_PATHS.fullmatch(path) or PICTURE_PATHS.fullmatch(path)
    return min(limit, TEXT_BYTES if takes_text else PAGE_BYTES)


@dataclass(frozen=True)
class Refusal:
    """Why a request is answered before the application sees it."""

    status: int
    code: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)


def too_large(path: str, limit: int) -> Refusal:
    """413, with the setting that is in the way where there is one."""
    if limit == 0:
        return Refusal(413, "body_too_large", "No body is taken here.")
    if limit >= settings.MAX_BODY_BYTES:
        setting = "LORA_MAX_UPLOAD_MB" if UPLOAD_PATHS.fullmatch(path) else "MAX_BODY_MB"
        detail = f"The body may have at most {limit / 1024 / 1024:g} MiB ({setting})."
    else:
        detail = f"The body may have at most {limit / 1024:g} KiB here."
    return Refusal(413, "body_too_large", detail)


AGAIN: Final = {"Retry-After": "5"}
TOO_SLOW: Final = Refusal(
    408, "body_too_slow", "The body came too slowly, or stopped coming (BODY_PATIENCE_S)."
)
MEMORY_FULL: Final = Refusal(503, "too_many_bodies", "Too many bodies are on their way; try again.", AGAIN)
STORE_FULL: Final = Refusal(
    503,
    "too_many_bodies",
    "The bodies on their way take all the room there is (BODY_STORE_MB); try again.",
    AGAIN,
)
USER_FULL: Final = Refusal(
    429,
    "too_many_bodies",
    "Your requests on their way take half the room there is; let one end first.",
    AGAIN,
)
NO_SPACE: Final = Refusal(
    507, "insufficient_storage", "The server has no space left for this body (TMPDIR).", {"Retry-After": "60"}
)


class Store:
    """The room that bodies take in this process: in memory, and in files by user."""

    def __init__(self) -> None:
        self.memory = 0
        self.files: Counter[Any] = Counter()

    def claim_memory(self, size: int) -> Refusal | None:
        """Takes so many bytes, or says why not."""
        if self.memory + size > MEMORY_BYTES:
            return MEMORY_FULL
        self.memory += size
        return None

    def claim_files(self, user: Any, size: int, *, has: int = 0) -> Refusal | None:
        """Takes so many bytes for a user's body that `has` some, or says why not.

        A user's only body may take all the room there is, and the only body of all more than that.
        """
        room, all_bytes = settings.BODY_STORE_BYTES, self.files.total()
        if all_bytes > has and all_bytes + size > room:
            return STORE_FULL
        if self.files[user] > has and self.files[user] + size > room // 2:
            return USER_FULL
        self.files[user] += size
        return None

    def give_back(self, user: Any, *, memory: int, files: int) -> None:
        """The end of a body."""
        self.memory -= memory
        if files:
            self.files[user] -= files
            if not self.files[user]:
                del self.files[user]


STORE: Final = Store()

Headers: TypeAlias = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Head:
    """A request as far as it is known before its body."""

    method: str
    path: str
    headers: Headers
    client: tuple[str, int] | None
    declared: int | None  # bytes of the body; None in chunks, until it has come

    def header(self, name: bytes) -> str:
        """A header's first value, or nothing."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name), "")


# Who sends: a user's key, or why nothing is taken from them.
Identify: TypeAlias = Callable[[Head], Awaitable[Any]]


class Intake:
    """One body while it comes.

    `on_refused()` is called as soon as it is refused, `on_settled()` when the question who sends it has been answered.
    """

    def __init__(
        self,
        head: Head,
        *,
        identify: Identify,
        on_refused: Callable[[], None],
        on_settled: Callable[[], None],
        store: Store = STORE,
    ) -> None:
        self.head = head
        self.limit = body_limit(head.path, head.header(b"content-type"))
        self.copies = UPLOAD_COPIES if UPLOAD_PATHS.fullmatch(head.path) else COPIES
        self.content: IO[bytes] = BytesIO()
        self.refusal: Refusal | None = None
        self.received = 0
        self.began = self.came = time.monotonic()
        self.asking: asyncio.Task[None] | None = None
        self._identify, self._on_refused, self._on_settled = identify, on_refused, on_settled
        self._store = store
        self._user: Any = None
        self._is_admitted = False
        self._memory = self._files = 0  # bytes claimed
        self._held: list[bytes] = []  # while the sender is looked up

    def begin(self) -> None:
        """Decides what the request's head decides."""
        if (declared := self.head.declared or 0) > self.limit:
            self.refuse(too_large(self.head.path, self.limit))
        elif declared > ANYBODY_BYTES:
            self._ask()

    def take(self, data: bytes) -> None:
        """The next bytes."""
        self.received += len(data)
        self.came = time.monotonic()
        if self.refusal is not None:
            return
        if self.received > self.limit:
            self.refuse(too_large(self.head.path, self.limit))
        elif self.asking is not None:
            self._held.append(data)
        elif self._is_admitted:
            self._write_file(data)
        elif self.received > ANYBODY_BYTES:
            self._held.append(data)
            self._ask()
        elif (refusal := self._store.claim_memory(len(data))) is not None:
            self.refuse(refusal)
        else:
            self._memory += len(data)
            self.content.write(data)

    def is_slow(self) -> bool:
        """Whether it has stopped coming, or come too slowly so far."""
        latest = min(self.came, self.began + self.received / LEAST_BYTES_PER_S)
        return self.asking is None and time.monotonic() - latest > settings.BODY_PATIENCE_S

    def refuse(self, refusal: Refusal) -> None:
        """Takes no more of it, and forgets what has come."""
        self.refusal = refusal
        self.release()
        with contextlib.suppress(OSError):  # what could not be written cannot be flushed either
            self.content.close()
        self.content = BytesIO()
        self._on_refused()

    def release(self) -> None:
        """Gives back what it takes; its content is whoever's that reads it."""
        if self.asking is not None:
            self.asking.cancel()
            self.asking = None
        self._store.give_back(self._user, memory=self._memory, files=self._files)
        self._memory = self._files = 0
        self._held = []

    def _ask(self) -> None:
        self.asking = asyncio.ensure_future(self._look_up())

    async def _look_up(self) -> None:
        found = await self._identify(self.head)
        self.asking = None
        if isinstance(found, Refusal):
            self.refuse(found)
        else:
            self._admit(found)
        self._on_settled()

    def _admit(self, user: Any) -> None:
        """Moves what there is to a file, of which the room for all that was declared is taken at once."""
        self._user, self._is_admitted = user, True
        wanted = self.copies * (self.head.declared or 0)
        refusal = self._store.claim_files(user, wanted)
        if refusal is not None:
            self.refuse(refusal)
            return
        self._files = wanted
        small, held, self._held = self.content, self._held, []
        try:
            self.content = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the request
        except OSError as error:
            self._no_space(error)
            return
        self._write_file(small.getvalue() if isinstance(small, BytesIO) else b"", counted=False)
        for data in held:
            self._write_file(data, counted=False)

    def _write_file(self, data: bytes, *, counted: bool = True) -> None:
        if self.refusal is not None:
            return
        stored = self.copies * self.received if counted else 0
        if stored > self._files:  # in chunks, of which nothing was declared
            refusal = self._store.claim_files(self._user, stored - self._files, has=self._files)
            if refusal is not None:
                self.refuse(refusal)
                return
            self._files = stored
        try:
            self.content.write(data)
            self.content.flush()
        except OSError as error:
            self._no_space(error)

    def _no_space(self, error: OSError) -> None:
        logger.error("no space for a body", exc_info=error)
        self.refuse(NO_SPACE)


class BodyFile(bytes):
    """Stands in a message for a body that lies in `file`; an empty body to whoever does not know that."""

    file: IO[bytes]


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
