"""Feeds of the running service while its Redis dies and comes back."""

import asyncio
import json
from typing import Any

import httpx2
import psutil

from tests.integration.test_live_feeds import assert_whole, feed
from tests.support.live import Live
from tests.support.service import SAFETY_S, wait_for

FEEDS_OF_A_KIND = 25
STEPS = 100


async def streamed(http: httpx2.AsyncClient, job_id: str, *, into: list[dict[str, Any]]) -> None:
    """All events of a feed, as server-sent events, as they come."""
    async with http.stream("GET", f"/api/v1/generations/{job_id}/events") as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                into.append(json.loads(line[6:]))  # noqa: PERF401 - as they come, not at the end


def redis_process(live: Live) -> psutil.Process:
    """The service's Redis."""
    return next(process for process in live.service.family() if "redis-server" in process.cmdline()[0])


async def test_a_redis_that_dies_leaves_no_gap_in_any_feed(live: Live) -> None:
    """Fifty follow a job, half by sockets; all see every event, the last one too, without being cut off."""
    job = live.create(steps=STEPS, width=512, height=512)
    limits = httpx2.Limits(max_connections=FEEDS_OF_A_KIND)
    async with (
        asyncio.timeout(SAFETY_S),
        httpx2.AsyncClient(base_url=live.url, headers=live.headers, timeout=SAFETY_S, limits=limits) as http,
    ):
        feeds: list[list[dict[str, Any]]] = [[] for _ in range(2 * FEEDS_OF_A_KIND)]
        following = [
            *(asyncio.create_task(feed(live, job["id"], into=into)) for into in feeds[:FEEDS_OF_A_KIND]),
            *(asyncio.create_task(streamed(http, job["id"], into=into)) for into in feeds[FEEDS_OF_A_KIND:]),
        ]
        # What Redis told nobody and has not written yet either is gone with it: all hear of the beginning first.
        await asyncio.to_thread(
            wait_for, lambda: all(into and into[-1]["type"] == "progress" for into in feeds), "progress"
        )
        killed = redis_process(live)
        killed.kill()
        await asyncio.to_thread(wait_for, lambda: live.http.get("/health/ready").status_code == 200, "Redis")
        assert redis_process(live).pid != killed.pid
        assert live.get(job["id"])["status"] == "running", "the job is to outlast the restart"
        await asyncio.gather(*following)
    stored = await feed(live, job["id"], "?after=0")
    for events in feeds:
        assert_whole(events, steps=STEPS)
        told = {event["seq"]: event for event in events}
        # Followers may have heard more: what Redis had not written yet when it was killed.
        assert [told[event["seq"]] | {"prev": event["prev"]} for event in stored] == stored
