"""A web process that is told to end: nobody is cut short, and nobody who was connected has hung up."""

import asyncio
import json
from contextlib import ExitStack, suppress
from typing import Any

import httpx2
import websockets
from websockets.exceptions import ConnectionClosed

from imagegen_project.common.shutdown import COME_AGAIN
from tests.support.live import Live
from tests.support.service import SAFETY_S

REQUEST = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 2, "cancel_on_disconnect": True}


async def stored(live: Live, count: int) -> list[str]:
    """The ids of jobs that are stored and have not ended, once there are so many."""
    unended = "SELECT id::text FROM generation_generation WHERE finished_at IS NULL ORDER BY id"
    while len(rows := live.service.sql(unended)) < count:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return [job for (job,) in rows]


async def closed(socket: Any) -> int | None:
    """With which code a socket ends."""
    with suppress(ConnectionClosed):
        async for _ in socket:
            pass
    code: int | None = socket.close_code
    return code


async def streamed(http: httpx2.AsyncClient, job: str, opened: asyncio.Event) -> list[str]:
    """The lines of an event stream that is ended as it should be: a cut one raises."""
    lines = []
    async with http.stream("GET", f"/api/v1/generations/{job}/events") as response:
        async for line in response.aiter_lines():
            lines.append(line)
            if line.startswith("event:"):  # a comment comes first, to open the way
                opened.set()
    return lines


async def test_everybody_is_seen_to(live: Live) -> None:
    """Sockets and streams are sent away, the answers are waited for, and no job is canceled."""
    with live.web_beside(WEB_GRACE_S="60") as (url, web), ExitStack() as undrawn:
        undrawn.enter_context(live.undrawn())
        address = url.replace("http:", "ws:")
        async with (
            asyncio.timeout(SAFETY_S),
            httpx2.AsyncClient(base_url=url, headers=live.headers, timeout=60) as http,
            websockets.connect(
                f"{address}/stream/generate/txt2img", additional_headers=live.headers
            ) as streaming,
        ):
            await streaming.send(json.dumps(REQUEST))
            job = json.loads(await streaming.recv())["job_id"]
            opened = asyncio.Event()
            stream = asyncio.create_task(streamed(http, job, opened))
            waiting = asyncio.create_task(
                http.post("/api/v1/generations", json=REQUEST, headers={"Prefer": "wait=50"})
            )
            async with websockets.connect(
                f"{address}/ws/generations/{job}/", additional_headers=live.headers
            ) as feed:
                await opened.wait()
                jobs = await stored(live, 2)
                web.terminate()
                assert [await closed(feed), await closed(streaming)] == [COME_AGAIN, COME_AGAIN]
            assert any(line.startswith("event: queued") for line in await stream)
            assert not waiting.done()
            undrawn.close()
            answer = await waiting
            assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
            await asyncio.to_thread(web.wait, SAFETY_S)
        assert [live.wait(job)["status"] for job in jobs] == ["succeeded", "succeeded"]


async def test_who_waits_too_long_is_told_where_to_ask(live: Live) -> None:
    """As at the end of any wait: the job has an address and goes on."""
    with live.web_beside(WEB_GRACE_S="8") as (url, web), live.undrawn():
        async with (
            asyncio.timeout(SAFETY_S),
            httpx2.AsyncClient(base_url=url, headers=live.headers, timeout=60) as http,
        ):
            native = asyncio.create_task(
                http.post("/api/v1/generations", json=REQUEST, headers={"Prefer": "wait=50"})
            )
            openai = asyncio.create_task(
                http.post("/v1/images/generations", json={"prompt": "a red circle", "size": "256x256"})
            )
            jobs = await stored(live, 2)
            web.terminate()
            assert (await native).status_code == 202
            assert (await openai).status_code == 504
            assert (await native).json()["id"] in (await native).headers["Location"]
            assert (await openai).headers["X-Job-Id"]
            await asyncio.to_thread(web.wait, SAFETY_S)
        assert [live.get(job)["status"] for job in jobs] == ["queued", "queued"]
