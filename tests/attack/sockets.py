"""Sockets that say too much, nothing that can be read, or half of something."""

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.attack.cases import Case
from tests.attack.target import Target
from tests.support.service import SAFETY_S

MB = 1_000_000
PATHS = ("/stream/generate/txt2img", "/ws/generations/00000000-0000-7000-8000-000000000000/")
AT_ONCE = 200


def _says(message: str | bytes) -> Callable[[ClientConnection], None]:
    return lambda client: client.send(message)


def _half(client: ClientConnection) -> None:
    """A message in parts without an end."""
    client.send(iter(["a" * MB] * 40))


def _pings(client: ClientConnection) -> None:
    for _ in range(5000):
        client.ping()


def _broken_frame(client: ClientConnection) -> None:
    client.socket.sendall(b"\xff\xff" + b"\xff" * 8)


MESSAGES: dict[str, Callable[[ClientConnection], None]] = {
    "20 MB of text": _says("a" * 20 * MB),
    "20 MB of bytes": _says(bytes(20 * MB)),
    "40 MB in parts": _half,
    "millions of lists": _says("[" + "[]," * 2 * MB + "1]"),
    "nested lists": _says("[" * 2 * MB),
    "no JSON": _says("prompt"),
    "a number": _says("1"),
    "a lone surrogate": _says('{"prompt": "\\ud800"}'),
    "fields that nobody knows": _says(json.dumps({str(number): number for number in range(5000)})),
    "5,000 pings": _pings,
    "a frame that is none": _broken_frame,
    "nothing but a close": lambda client: client.close(),
}


def _send(message: str, path: str, sender: str, target: Target) -> int:
    headers = {"Authorization": f"Bearer {target.tokens[sender]}"} if sender else {}
    url = f"ws://127.0.0.1:{target.port}{path}"
    try:
        with connect(
            url, additional_headers=headers, open_timeout=SAFETY_S, close_timeout=5, max_size=None
        ) as client:
            with contextlib.suppress(ConnectionClosed, OSError):
                MESSAGES[message](client)
                while True:
                    client.recv(timeout=SAFETY_S)
            return client.close_code or 0
    except InvalidStatus as refused:
        return int(refused.response.status_code)


def _crowd(sender: str, target: Target) -> int:
    """More sockets than one user may have; the status of the last one."""
    headers = {"Authorization": f"Bearer {target.tokens[sender]}"} if sender else {}
    status = 0
    with contextlib.ExitStack() as opened:
        for _ in range(AT_ONCE):
            try:
                url = f"ws://127.0.0.1:{target.port}{PATHS[0]}"
                opened.enter_context(connect(url, additional_headers=headers, open_timeout=SAFETY_S))
                status = 101
            except InvalidStatus as refused:
                status = refused.response.status_code
    return status


def _half_open(target: Target) -> int:
    """Connections that say nothing, or half of a request's head."""
    with contextlib.ExitStack() as opened:
        for number in range(AT_ONCE):
            client = opened.enter_context(
                socket.create_connection(("127.0.0.1", target.port), timeout=SAFETY_S)
            )
            client.sendall(b"GET /api/v1/models HTTP/1.1\r\nHost: " if number % 2 else b"")
        return int(target.call("", "GET", "/api/v1/models").status_code)


def cases() -> Iterator[Case]:
    """Each message on each kind of socket by nobody and by a user, and many sockets at once."""
    for message, path, sender in product(MESSAGES, PATHS, ("", "user")):
        yield Case("socket", f"{message} → {path[:25]}", sender, partial(_send, message, path, sender))
    for sender in ("", "user"):
        yield Case("socket", f"{AT_ONCE} at once", sender, partial(_crowd, sender))
    yield Case("socket", f"{AT_ONCE} connections that say nothing", "", _half_open)
