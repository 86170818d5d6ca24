"""Receivers of webhooks that attack: answers that never come, never end, lead inside, or cost much."""

import contextlib
import itertools
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from urllib.parse import quote

from tests.attack.cases import Case
from tests.attack.target import Target
from tests.support.service import SAFETY_S, wait_for

PIECE = 64 * 1024
PAUSE_S = 0.05
INSIDE = "/inside"
OK = b"HTTP/1.1 200 OK\r\n"


@cache
def _bomb() -> bytes:
    """100 MB of zeros in 100 kB."""
    packer = zlib.compressobj(9)
    packed = b"".join([*(packer.compress(bytes(1_000_000)) for _ in range(100)), packer.flush()])
    return OK + b"Content-Encoding: deflate\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed


def _drops(head: bytes, drop: bytes) -> Iterator[bytes]:
    yield head
    while True:
        yield drop


# What follows a request; each piece is sent after a pause where the name says that it drips.
ANSWERS: dict[str, Callable[[str], Iterator[bytes]]] = {
    "nothing": lambda _: iter([]),
    "a head that drips": lambda _: _drops(OK + b"X-Slow: ", b"x"),
    "a body that drips": lambda _: _drops(OK + b"Content-Length: 10000000000\r\n\r\n", b"x"),
    "a head without an end": lambda _: _drops(OK, b"X-More: " + b"x" * PIECE + b"\r\n"),
    "a body without an end": lambda _: _drops(OK + b"Content-Length: 10000000000\r\n\r\n", b"x" * PIECE),
    "chunks without an end": lambda _: _drops(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "Continue without an end": lambda _: _drops(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "packed zeros": lambda _: iter([_bomb()]),
    "no HTTP": lambda _: iter([b"\x16\x03\x01" + bytes(1000)]),
    "a status that is none": lambda _: iter([b"HTTP/1.1 99999 Never\r\n\r\n"]),
    "two lengths": lambda _: iter([OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"]),
    **{
        f"{status} to inside": lambda url, status=status: iter(
            [f"HTTP/1.1 {status} Go\r\nLocation: {url}{INSIDE}\r\nContent-Length: 0\r\n\r\n".encode()]
        )
        for status in (301, 302, 303, 307, 308)
    },
    "429": lambda _: iter([b"HTTP/1.1 429 No\r\nRetry-After: 9999999999\r\nContent-Length: 0\r\n\r\n"]),
}  # fmt: skip


class Receivers:
    """A server on loopback that answers each path in its way, and counts who came."""

    def __init__(self) -> None:
        _bomb()
        self.came: list[str] = []
        self._over = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def address(self, name: str) -> str:
        """Where that answer is given."""
        return f"{self.url}/{quote(name)}"

    def close(self) -> None:
        """Ends it; who still waits gets nothing."""
        self._over.set()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()

    def _accept(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError):
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.settimeout(SAFETY_S)
            path = client.makefile("rb").readline().decode("latin-1").split()[1]
            self.came.append(path)
            name = next((name for name in ANSWERS if path == f"/{quote(name)}"), "")
            drips = name.endswith("drips")
            for piece in ANSWERS[name](self.url) if name else iter([OK + b"Content-Length: 0\r\n\r\n"]):
                if self._over.wait(PAUSE_S if drips else 0):
                    return
                client.sendall(piece)
            if name == "nothing":
                self._over.wait()


@contextmanager
def attacking() -> Iterator[Receivers]:
    """The receivers, until the block ends."""
    found = Receivers()
    try:
        yield found
    finally:
        found.close()


_numbers = itertools.count()


def send(name: str, receivers: Receivers, who: str, target: Target) -> int:
    """A job whose message goes there (without a name: to where it is taken); 200 once the attempt is on record."""
    body = {
        "prompt": f"a red circle {next(_numbers)}",
        "steps": 1,
        "width": 256,
        "height": 256,
        "webhook_url": receivers.address(name),
        "webhook_events": ["succeeded"],
    }
    answer = target.call(who, "POST", "/api/v1/generations", json=body)
    if answer.status_code != 202:
        return int(answer.status_code)
    query = (
        "SELECT 1 FROM generation_webhookdelivery"
        f" WHERE generation_id = '{answer.json()['id']}' AND jsonb_array_length(log) > 0"
    )
    wait_for(lambda: target.service.sql(query), f"an attempt at {name}")
    assert not any(path.startswith(INSIDE) for path in receivers.came), "a redirect was followed"
    return 200


def cases(receivers: Receivers) -> Iterator[Case]:
    """Every way of answering, by a user."""
    for name in ANSWERS:
        yield Case("receiver", name, "user", partial(send, name, receivers, "user"))
