"""A socket whose client does not read is cut; one that reads gets everything."""

import json
import socket
import time
import urllib.request
from collections.abc import Iterator

import pytest
from websockets.sync.client import connect

from tests.unit.imagegen_project.server.test_bodies import SAFETY_S, serve

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def flooding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """daphne on a port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    address = ["-b", "127.0.0.1", "-p", str(port)]
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


def raw(port: int, path: str) -> socket.socket:
    """A socket that was opened and is never read."""
    client = socket.create_connection(("127.0.0.1", port), timeout=SAFETY_S)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    request = (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    client.sendall(request.encode())
    return client


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
