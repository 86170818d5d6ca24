"""A socket whose client does not read is cut; one that reads gets everything, however slowly."""

import json
import socket
import time
import urllib.request
from collections.abc import Iterator

import pytest
from websockets.sync.client import connect

from imagegen_project.server.patches import _moves
from tests.unit.imagegen_project.server.test_bodies import SAFETY_S, serve

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def flooding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """daphne on a port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    limits = ["--websocket-max-message-size", str(64 * MIB), "--websocket-max-frame-size", str(16 * MIB)]
    address = ["-b", "127.0.0.1", "-p", str(port), *limits]
    with serve(tmp_path_factory.mktemp("flood"), address, "tests.support.flooding_app:application"):
        deadline = time.monotonic() + SAFETY_S
        while True:
            try:
                status(port)
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield port


def status(port: int) -> dict[str, dict[str, int]]:
    """What became of the sockets."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=SAFETY_S) as answer:
        found: dict[str, dict[str, int]] = json.loads(answer.read())
        return found


def raw(port: int, path: str, *, buffer: int = 4096) -> socket.socket:
    """A socket that was opened, with a small window, and is not read."""
    client = socket.socket()
    client.setsockopt(
        socket.SOL_SOCKET, socket.SO_RCVBUF, buffer
    )  # before it connects, else the window is larger
    client.settimeout(SAFETY_S)
    client.connect(("127.0.0.1", port))
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    request = (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    client.sendall(request.encode())
    return client


@pytest.mark.slow
def test_a_client_that_does_not_read_is_cut_and_the_others_are_not(flooding: int) -> None:
    """After what the buffers hold and a mebibyte; a streaming socket may fall further behind."""
    with (
        raw(flooding, "/ws/idle"),
        raw(flooding, "/stream/patient"),
        connect(f"ws://127.0.0.1:{flooding}/ws/reader") as reader,
    ):
        deadline = time.monotonic() + SAFETY_S
        while "/ws/idle" not in status(flooding)["ended"]:
            assert time.monotonic() < deadline
            for _ in range(50):
                assert len(reader.recv(timeout=SAFETY_S)) > 0
        found = status(flooding)
        assert found["sent"]["/ws/idle"] < 16 * MIB, "the kernel's buffers, and a mebibyte"
        assert "/ws/reader" not in found["ended"]
        assert "/stream/patient" not in found["ended"]


LAST_BYTES = 1_200_000
BYTES_PER_S = 50_000  # the least that is promised


@pytest.mark.slow
def test_the_last_message_arrives_over_a_slow_line(flooding: int) -> None:
    """At 50 kB/s, with the close frame behind it; who reads nothing of it is cut off."""
    with raw(flooding, "/stream/last/stalled"), raw(flooding, "/stream/last/slow", buffer=16_384) as slow:
        got = bytearray()
        began = time.monotonic()
        while piece := slow.recv(20_000):
            got += piece
            if got.endswith(b"\x88\x02\x03\xe8"):
                break
            time.sleep(max(0.0, began + len(got) / BYTES_PER_S - time.monotonic()))  # the line's speed
        assert got.count(b"x") >= LAST_BYTES
        assert got.endswith(b"\x88\x02\x03\xe8"), "closed with 1000"
        deadline = time.monotonic() + SAFETY_S
        while "/stream/last/stalled" not in status(flooding)["ended"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)


class Transport:
    """As much of a connection as says what has not been sent."""

    _tempDataLen = 0  # noqa: N815 - Twisted's name
    offset = 0

    def __init__(self, unsent: int) -> None:
        self.dataBuffer = bytes(unsent)

    def fileno(self) -> int:
        """None: a kernel that does not tell."""
        return -1


class Connection:
    """A connection that is looked at from time to time."""

    def __init__(self, unsent: int) -> None:
        self.transport = Transport(unsent)


def test_what_moves_fast_enough_is_not_cut() -> None:
    """Judged by what arrived since the last look; what has all arrived does not move any more."""
    connection = Connection(1_000_000)
    assert _moves(connection, within_s=10)
    connection.transport = Transport(700_000)
    assert _moves(connection, within_s=10)
    connection.transport = Transport(600_000)
    assert not _moves(connection, within_s=10)
    connection.transport = Transport(0)
    assert not _moves(connection, within_s=10)
