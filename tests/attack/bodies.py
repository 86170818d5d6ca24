"""Bodies that cost much, to every kind of route, by nobody, by a user and by a member of staff."""

import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

from tests.attack.cases import Case
from tests.attack.target import Target
from tests.support.service import SAFETY_S

MB = 1_000_000
PIECE = 64 * 1024
COOKIE = "Cookie: csrftoken=" + "a" * 32


@dataclass(frozen=True)
class Body:
    """A body as it is sent: with these header lines, and perhaps not to its end."""

    name: str
    content_type: str
    make: Callable[[], bytes]
    declared: int | None = None  # another length than it has
    chunked: bool = False


def _json(text: bytes, end: bytes = b"") -> Callable[[], bytes]:
    return lambda: b"[" + text * (15 * MB // len(text)) + end


FORM, JSON, PARTS = "application/x-www-form-urlencoded", "application/json", "multipart/form-data; boundary=x"
FIELD = b'--x\r\nContent-Disposition: form-data; name="csrfmiddlewaretoken"\r\n\r\n'
FILE = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\na\r\n'
BODIES = (
    Body("urlencoded token", FORM, lambda: b"csrfmiddlewaretoken=" + b"%41" * (5 * MB)),
    Body("urlencoded fields", FORM, lambda: b"a&" * (7 * MB)),
    Body("form token", PARTS, lambda: FIELD + b"a" * (15 * MB) + b"\r\n--x--\r\n"),
    Body("form files", PARTS, lambda: FILE * (15 * MB // len(FILE)) + b"--x--\r\n"),
    Body("empty lists", JSON, _json(b"[],", b"1]")),
    Body("objects", JSON, _json(b'{"a":1},', b"1]")),
    Body("empty strings", JSON, _json(b'"",', b"1]")),
    Body("nesting", JSON, _json(b"[")),
    Body("escapes", JSON, lambda: b'["' + b"\\u0101" * (2 * MB) + b'"]'),
    Body("digits", JSON, _json(b"1", b"]")),
    Body("bytes in chunks", "application/octet-stream", lambda: bytes(18 * MB), chunked=True),
    Body("ten gigabytes declared", "application/octet-stream", lambda: bytes(MB), declared=10_000 * MB),
    Body("never ended", "application/octet-stream", lambda: bytes(MB), declared=15 * MB),
)
ROUTES = (
    *("/health", "/health/ready", "/metrics", "/", "/accounts/login/", "/admin/login/"),
    *("/api/v1/generations", "/api/v1/loras/load", "/api/v1/loras/upload", "/admin/loras/lora/add/"),
    *(
        "/v1/images/generations",
        "/v1/images/edits",
        "/hf/builtin",
        "/sdapi/v1/img2img",
        "/sdapi/v1/interrupt",
    ),
)
NOBODY = ""
SENDERS = (NOBODY, "user", "staff")
# A few of them, for the suite.
SHORT = tuple(
    product(
        [body for body in BODIES if body.name in ("urlencoded token", "empty lists", "never ended")],
        ["/health", "/admin/login/", "/api/v1/generations"],
        [NOBODY, "user"],
    )
)


def cases() -> Iterator[Case]:
    """Every body to every route by everybody."""
    for body, route, sender in product(BODIES, ROUTES, SENDERS):
        yield Case("body", f"{body.name} → {route}", sender, partial(attack, body, route, sender))


def attack(body: Body, route: str, sender: str, target: Target) -> int:
    """Sends one; the status of the answer. Raises where none comes."""
    content = body.make()
    length = body.declared if body.declared is not None else len(content)
    lines = [
        f"POST {route} HTTP/1.1",
        f"Host: 127.0.0.1:{target.port}",
        f"Content-Type: {body.content_type}",
        COOKIE,
        "Transfer-Encoding: chunked" if body.chunked else f"Content-Length: {length}",
    ]
    if sender:
        lines.append(f"Authorization: Bearer {target.tokens[sender]}")
    with socket.create_connection(("127.0.0.1", target.port), timeout=SAFETY_S) as client:
        client.sendall("\r\n".join([*lines, "", ""]).encode())
        with contextlib.suppress(ConnectionError):  # the answer may be there before all is sent
            for piece in _pieces(content, chunked=body.chunked):
                client.sendall(piece)
        answer = client.recv(12)
        assert answer.startswith(b"HTTP/1.1 "), answer
        return int(answer[9:12])


def _pieces(content: bytes, *, chunked: bool) -> Iterable[bytes]:
    for start in range(0, len(content), PIECE):
        piece = content[start : start + PIECE]
        yield b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece
    if chunked:
        yield b"0\r\n\r\n"
