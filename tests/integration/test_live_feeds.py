"""Sockets and waiting requests against the running service."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from typing import Any

import httpx2
import psutil
import pytest
import redis
import websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus

from imagegen_project.standalone import paths
from tests.support.live import Live
from tests.support.service import REPOSITORY, SAFETY_S, environment

WAITING = 300
DRAWN = 5
MAX_THREADS = 40
MAX_CONNECTIONS = 20


async def feed(
    live: Live, job_id: str, query: str = "", *, into: list[dict[str, Any]] | None = None, **options: Any
) -> list[dict[str, Any]]:
    """All events of a feed, until the server closes it; `into` has them as they come."""
    options = options or {"additional_headers": live.headers}
    events = [] if into is None else into
    async with (
        asyncio.timeout(SAFETY_S),
        websockets.connect(live.socket_url(job_id, query), **options) as socket,
    ):
        try:
            while True:
                events.append(json.loads(await socket.recv()))
        except ConnectionClosed:
            assert socket.close_code == 1000
    return events


def assert_whole(events: list[dict[str, Any]], *, steps: int) -> None:
    """Nothing missing, nothing twice, in order, from the start to the end."""
    assert events[0]["type"] == "snapshot"
    told = [event for event in events if event["type"] != "progress"][1:]
    assert [event.get("phase") or event["type"] for event in told] == [
        "queued",
        "loading",
        "denoising",
        "decoding",
        "saving",
        "succeeded",
    ]
    seen = [event["step"] for event in events if event["type"] == "progress"]
    assert seen == sorted(set(seen)), "progress may be coalesced on a busy machine, and nothing else"
    assert set(seen) <= set(range(1, steps + 1))
    for before, after in pairwise(events[1:]):
        assert after["prev"] == before["seq"] < after["seq"]
    assert events[-1]["images"]


async def test_fifty_sockets_get_every_event(live: Live) -> None:
    """Opened before, during and after the job."""
    job = live.create(steps=20, width=512, height=512)
    early = [asyncio.create_task(feed(live, job["id"])) for _ in range(25)]
    await asyncio.to_thread(live.wait, job["id"], "running", "succeeded")
    late = [asyncio.create_task(feed(live, job["id"])) for _ in range(25)]
    for events in await asyncio.gather(*early, *late):
        assert_whole(events, steps=20)


async def test_a_socket_opened_after_the_end_gets_everything(live: Live) -> None:
    """And one that resumes gets the rest."""
    job = await asyncio.to_thread(lambda: live.wait(live.create(steps=5)["id"]))
    events = await feed(live, job["id"])
    assert_whole(events, steps=5)
    rest = await feed(live, job["id"], f"?after={events[4]['seq']}")
    assert rest == events[5:]


async def test_tickets_and_subprotocols_open_sockets(live: Live) -> None:
    """A ticket once; a token never in the address."""
    job = await asyncio.to_thread(lambda: live.wait(live.create()["id"]))
    ticket = live.http.post("/api/v1/tickets").json()["ticket"]
    assert await feed(live, job["id"], f"?ticket={ticket}", user_agent_header=None)
    with pytest.raises(InvalidStatus) as used:
        await feed(live, job["id"], f"?ticket={ticket}", user_agent_header=None)
    assert used.value.response.status_code == 403
    assert await feed(live, job["id"], subprotocols=["bearer", live.token])


async def test_a_ticket_whose_time_is_over_opens_nothing(live: Live) -> None:
    """Neither a socket nor an event stream."""
    job = live.create()
    with redis.Redis.from_url(paths.redis_url(live.service.data_dir)) as client:
        for door in ("socket", "stream"):
            ticket = live.http.post("/api/v1/tickets").json()["ticket"]
            for key in client.scan_iter("imagegen:ticket:*"):
                assert client.pttl(key) > 0
                client.pexpire(key, 0)
            if door == "socket":
                with pytest.raises(InvalidStatus) as refused:
                    await feed(live, job["id"], f"?ticket={ticket}", user_agent_header=None)
                assert refused.value.response.status_code == 403
            else:
                url = f"{live.url}/api/v1/generations/{job['id']}/events"
                assert httpx2.get(url, params={"ticket": ticket}).status_code == 401


@pytest.fixture
def stranger(live: Live) -> dict[str, str]:
    """The headers of another user."""
    made = subprocess.run(
        [sys.executable, str(REPOSITORY / "manage.py"), "create_token", "stranger"],
        env=environment() | {"DATA_DIR": str(live.service.data_dir)},
        capture_output=True,
        text=True,
        check=True,
    )
    return {"Authorization": f"Bearer {made.stdout.split()[-1]}"}


async def test_somebody_elses_job_is_not_there(live: Live, stranger: dict[str, str]) -> None:
    """By socket, by streaming socket, and by event stream."""
    job = live.create()
    with pytest.raises(InvalidStatus) as refused:
        await feed(live, job["id"], additional_headers=stranger)
    assert refused.value.response.status_code == 403
    answer = httpx2.get(f"{live.url}/api/v1/generations/{job['id']}/events", headers=stranger)
    assert (answer.status_code, answer.json()["code"]) == (404, "generation_not_found")
    address = f"ws://127.0.0.1:{live.service.port}/stream/generate/txt2img"
    async with asyncio.timeout(SAFETY_S), websockets.connect(address, additional_headers=stranger) as socket:
        await socket.send(json.dumps({"job_id": job["id"]}))
        assert json.loads(await socket.recv())["code"] == "generation_not_found"
        await socket.wait_closed()
        assert socket.close_code == 4404


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer img_wrong"}, {"Authorization": "Basic YTpi"}],
    ids=["nobody", "wrong", "basic"],
)
async def test_sockets_of_strangers_are_refused(live: Live, headers: dict[str, str]) -> None:
    """Before they are accepted."""
    job = live.create()
    with pytest.raises(InvalidStatus) as refused:
        await feed(live, job["id"], additional_headers=headers)
    assert refused.value.response.status_code == 403


async def test_pages_of_other_sites_open_no_socket(live: Live) -> None:
    """A browser's Origin must be this host's."""
    job = live.create()
    with pytest.raises(InvalidStatus) as refused:
        await feed(live, job["id"], additional_headers={**live.headers, "Origin": "https://evil.example"})
    assert refused.value.response.status_code == 403
    same = {**live.headers, "Origin": live.url}
    assert await feed(live, job["id"], additional_headers=same)


async def test_an_unknown_socket_path_is_refused(live: Live) -> None:
    """Without an error in the log."""
    with pytest.raises(InvalidStatus):
        await websockets.connect(
            live.url.replace("http", "ws") + "/ws/nothing", additional_headers=live.headers
        )


def web_process(live: Live) -> psutil.Process:
    """Daphne."""
    return next(process for process in live.service.family() if "daphne" in process.cmdline())


def test_a_web_process_has_one_arena(live: Live) -> None:
    """With one a thread it would grow for hours (`python -m benchmarks.soak` measures that)."""
    assert web_process(live).environ()["MALLOC_ARENA_MAX"] == "1"


async def test_waiting_holds_neither_threads_nor_connections(live: Live) -> None:
    """300 requests wait at once on one daphne, with few threads and few connections to PostgreSQL.

    Most are canceled then, since drawing them all would take long; each gets its answer.
    """
    web = web_process(live)
    quick = {"prompt": "a", "width": 256, "height": 256, "steps": 1}
    limits = httpx2.Limits(max_connections=WAITING)
    most_threads = most_connections = 0
    async with httpx2.AsyncClient(
        base_url=live.url, headers=live.headers, timeout=SAFETY_S, limits=limits
    ) as http:
        with live.undrawn():
            requests = [
                asyncio.create_task(http.post("/api/v1/generate/txt2img", json=quick)) for _ in range(WAITING)
            ]
            queued = "SELECT id FROM generation_generation WHERE status = 'queued' ORDER BY id"
            connections = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'imagegen web'"
            waiting: list[Any] = []
            async with asyncio.timeout(SAFETY_S):
                while len(waiting) < WAITING:
                    most_threads = max(most_threads, web.num_threads())
                    rows = await asyncio.to_thread(live.service.sql, connections)
                    most_connections = max(most_connections, rows[0][0])
                    waiting = await asyncio.to_thread(live.service.sql, queued)
                    await asyncio.sleep(0.2)
            assert not any(request.done() for request in requests)
            for (job_id,) in waiting[DRAWN:]:
                # Another client: all connections of this one wait.
                await asyncio.to_thread(live.http.post, f"/api/v1/generations/{job_id}/cancel")
        answers = Counter(answer.status_code for answer in await asyncio.gather(*requests))
    assert answers == {200: DRAWN, 409: WAITING - DRAWN}
    assert most_threads < MAX_THREADS
    assert most_connections < MAX_CONNECTIONS
