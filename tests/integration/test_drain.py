"""A web process that is told to end: nobody is cut short, and nobody who was connected has hung up."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from signal import SIGCONT, SIGSTOP, SIGTERM
from typing import Any

import httpx2
import psutil
import pytest
import websockets
from websockets.exceptions import ConnectionClosed

from imagegen_project.common.shutdown import COME_AGAIN
from tests.support.service import SAFETY_S, Service

REQUEST = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 2, "cancel_on_disconnect": True}


@pytest.fixture
def service(tmp_path: Path, grace_s: str) -> Iterator[Service]:
    """One whose worker does nothing yet."""
    running = Service(tmp_path / "data", WEB_GRACE_S=grace_s)
    try:
        running.wait_ready()
        yield running
    finally:
        with suppress(psutil.NoSuchProcess):
            process_of(running, "gpu_worker").send_signal(SIGCONT)
        running.end(SIGTERM)


def process_of(service: Service, word: str) -> psutil.Process:
    """One of its processes."""
    return next(process for process in service.family() if word in process.cmdline())


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


@pytest.mark.parametrize("grace_s", ["60"])
async def test_everybody_is_seen_to(service: Service) -> None:
    """Sockets and streams are sent away, the answers are waited for, and no job is canceled."""
    address = f"127.0.0.1:{service.port}"
    headers = {"Authorization": f"Bearer {(service.data_dir / 'token').read_text().strip()}"}
    gpu_worker, web = process_of(service, "gpu_worker"), process_of(service, "daphne")
    gpu_worker.send_signal(SIGSTOP)
    async with (
        asyncio.timeout(SAFETY_S),
        httpx2.AsyncClient(base_url=f"http://{address}", headers=headers, timeout=60) as http,
        websockets.connect(
            f"ws://{address}/stream/generate/txt2img", additional_headers=headers
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
            f"ws://{address}/ws/generations/{job}/", additional_headers=headers
        ) as feed:
            await opened.wait()
            while len(service.sql("SELECT 1 FROM generation_generation")) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            web.terminate()
            assert [await closed(feed), await closed(streaming)] == [COME_AGAIN, COME_AGAIN]
        assert any(line.startswith("event: queued") for line in await stream)
        assert not waiting.done()
        gpu_worker.send_signal(SIGCONT)
        answer = await waiting
        assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
        await asyncio.to_thread(web.wait, SAFETY_S)
    deadline = time.monotonic() + SAFETY_S
    while {status for (status,) in service.sql("SELECT status FROM generation_generation")} != {"succeeded"}:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)


@pytest.mark.parametrize("grace_s", ["8"])
async def test_who_waits_too_long_is_told_where_to_ask(service: Service) -> None:
    """As at the end of any wait: the job has an address and goes on."""
    headers = {"Authorization": f"Bearer {(service.data_dir / 'token').read_text().strip()}"}
    gpu_worker, web = process_of(service, "gpu_worker"), process_of(service, "daphne")
    gpu_worker.send_signal(SIGSTOP)
    async with (
        asyncio.timeout(SAFETY_S),
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{service.port}", headers=headers, timeout=60) as http,
    ):
        native = asyncio.create_task(
            http.post("/api/v1/generations", json=REQUEST, headers={"Prefer": "wait=50"})
        )
        openai = asyncio.create_task(
            http.post("/v1/images/generations", json={"prompt": "a red circle", "size": "256x256"})
        )
        while len(service.sql("SELECT 1 FROM generation_generation")) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        web.terminate()
        assert (await native).status_code == 202
        assert (await openai).status_code == 504
        assert (await native).json()["id"] in (await native).headers["Location"]
        assert (await openai).headers["X-Job-Id"]
        await asyncio.to_thread(web.wait, SAFETY_S)
    assert service.sql("SELECT DISTINCT status FROM generation_generation") == [("queued",)]
