"""Messages of sockets that are begun and not ended: bounded in size, in time, and all together."""

import socket
import struct

import pytest

from imagegen_project.server import inbox
from imagegen_project.server.inbox import (
    MESSAGE_BYTES,
    TOO_LARGE,
    TOO_MANY,
    TOO_SLOW,
    UNFINISHED_BYTES,
    Inbox,
)
from tests.unit.imagegen_project.server.test_bodies import SAFETY_S
from tests.unit.imagegen_project.server.test_slow_readers import flooding, raw, status  # noqa: F401

MIB = 1024 * 1024


def test_one_message_is_bounded() -> None:
    """By its size, whatever frames it comes in."""
    one = Inbox()
    assert one.take(MESSAGE_BYTES) is None
    assert one.take(1) == TOO_LARGE
    one.end()
    assert one.take(MESSAGE_BYTES) is None
    one.end()


def test_all_together_are_bounded() -> None:
    """And what ends makes room."""
    many = [Inbox() for _ in range(UNFINISHED_BYTES // MESSAGE_BYTES)]
    assert [one.take(MESSAGE_BYTES) for one in many] == [None] * len(many)
    late = Inbox()
    assert late.take(1) == TOO_MANY
    for one in many:
        one.end()
    assert late.take(1) is None
    late.end()


def test_a_message_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which begins with its first byte, and ends with its last."""
    now = [1000.0]
    monkeypatch.setattr(inbox.time, "monotonic", lambda: now[0])
    one = Inbox()
    assert one.overdue() is None
    one.take(1)
    now[0] += inbox.MESSAGE_WITHIN_S + 1
    assert one.overdue() == TOO_SLOW
    one.end()
    assert one.overdue() is None


def answer(client: socket.socket) -> bytes:
    """The first frame that is no ping, which comes where everything takes long; all of them are short."""
    with client.makefile("rb") as stream:
        while True:
            frame = stream.read(2)
            frame += stream.read(frame[1])
            if not frame.startswith(b"\x89"):
                return frame


@pytest.mark.slow
def test_half_sent_messages_do_not_fill_the_memory(flooding: int) -> None:  # noqa: F811
    """Through the real server: the socket over the bound is closed, the others stay."""
    masked = b"\x01\xff" + struct.pack("!Q", 16 * MIB) + bytes(4)  # the first of several frames
    clients = []
    try:
        for number in range(6):
            client = raw(flooding, f"/ws/silent/{number}")
            clients.append(client)
            client.settimeout(SAFETY_S)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            client.sendall(masked + bytes(15 * MIB))
        assert answer(clients[4]) == b"\x88\x02" + struct.pack("!H", TOO_MANY)
        assert "/ws/silent/0" not in status(flooding)["ended"]
    finally:
        for client in clients:
            client.close()
