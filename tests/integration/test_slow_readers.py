"""Clients that follow a feed of the running service and do not read it."""

import asyncio
import contextlib
import json
import re
import select
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from websockets.frames import Frame, Opcode

from imagegen_project.server.slow_readers import EVENTS_LIMIT_BYTES
from tests.integration.test_live_feeds import feed
from tests.support.live import Live
from tests.support.service import REPOSITORY, SAFETY_S, environment, wait_for

LARGE_EVENTS = 1500
# More than the kernel takes for both ends of a connection.
UNREAD_EVENTS = 800
# As the worker would publish them, with the largest previews there are.
PUBLISH = """
import sys
import django
django.setup()
from generation.feed.stream import event_append, events_notify
for number in range({count}):
    events_notify([event_append(sys.argv[1], "progress", attempt=0, step=number, preview="x" * 20_000)])
"""
UPGRADE = f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {'A' * 22}=="


@pytest.fixture
def job_id(live: Live) -> Iterator[str]:
    """A job that nobody draws."""
    with live.undrawn():
        yield live.create()["id"]


def publish(live: Live, job_id: str, count: int = LARGE_EVENTS) -> None:
    """Many large events, to everyone who follows."""
    variables = {
        "DATA_DIR": str(live.service.data_dir),
        "DJANGO_SETTINGS_MODULE": "imagegen_project.settings",
    }
    subprocess.run(
        [sys.executable, "-c", PUBLISH.format(count=count), job_id],
        env=environment() | variables | {"FEED_MAX_EVENTS": str(2 * LARGE_EVENTS)},
        cwd=REPOSITORY,
        check=True,
    )


def opened(live: Live, path: str, *more: str) -> socket.socket:
    """A connection on which this was asked for, and the first bytes of the answer were read."""
    client = socket.create_connection(("127.0.0.1", live.service.port), timeout=SAFETY_S)
    host = f"Host: 127.0.0.1:{live.service.port}"
    lines = (f"GET {path} HTTP/1.1", host, f"Authorization: Bearer {live.token}", *more, "\r\n")
    client.sendall("\r\n".join(lines).encode())
    assert client.recv(12) in (b"HTTP/1.1 101", b"HTTP/1.1 200")
    return client


def asked(client: socket.socket) -> str:
    """Asks for a picture on a streaming socket; the job's id."""
    request = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 2}
    client.sendall(Frame(Opcode.TEXT, json.dumps(request).encode()).serialize(mask=True))
    said = b""
    while (found := re.search(rb'"job_id":"([0-9a-f-]{36})"', said)) is None:
        said += client.recv(4096)
    return found[1].decode()


def is_cut(client: socket.socket) -> bool:
    """Whether the other end has thrown the connection away, though there is more to read."""
    poll = select.poll()
    poll.register(client, 0)  # nothing but errors and hang-ups
    return bool(poll.poll(0))


async def test_who_does_not_read_is_cut_off_and_others_are_not(live: Live, job_id: str) -> None:
    """By socket and by event stream; a reader gets every event meanwhile."""
    reader = asyncio.create_task(feed(live, job_id, "?after=0"))
    with (
        contextlib.closing(opened(live, f"/ws/generations/{job_id}/", UPGRADE)) as by_socket,
        contextlib.closing(opened(live, f"/api/v1/generations/{job_id}/events")) as by_stream,
    ):
        await asyncio.to_thread(publish, live, job_id)
        await asyncio.to_thread(wait_for, lambda: is_cut(by_socket) and is_cut(by_stream), "cut")
    live.http.post(f"/api/v1/generations/{job_id}/cancel")
    events = await reader
    assert [event["step"] for event in events if event["type"] == "progress"] == list(range(LARGE_EVENTS))
    assert events[-1]["type"] == "canceled"
    log = live.service.data_dir / "logs" / "web.log"
    cut = [json.loads(line) for line in log.read_text().splitlines() if '"slow reader cut off"' in line]
    assert {line["path"].split("/")[1] for line in cut} == {"ws", "api"}
    assert all(EVENTS_LIMIT_BYTES < line["bytes_behind"] < 2 * EVENTS_LIMIT_BYTES for line in cut)


async def test_who_hangs_up_with_much_unread_is_no_error(live: Live) -> None:
    """Events go on while what was sent before waits for its reader."""
    log = live.service.data_dir / "logs" / "web.log"
    before = log.stat().st_size
    with live.undrawn():
        client = await asyncio.to_thread(opened, live, "/stream/generate/txt2img", UPGRADE)
        with contextlib.closing(client):
            job_id = await asyncio.to_thread(asked, client)
            reader = asyncio.create_task(feed(live, job_id, "?after=0"))
            await asyncio.to_thread(publish, live, job_id, UNREAD_EVENTS)
            client.sendall(Frame(Opcode.CLOSE, b"").serialize(mask=True))
            await asyncio.to_thread(publish, live, job_id, 1)
            live.http.post(f"/api/v1/generations/{job_id}/cancel")
            assert (await reader)[-1]["type"] == "canceled"
    said = log.read_bytes()[before:].decode()
    assert [line for line in said.splitlines() if '"ERROR"' in line] == []
