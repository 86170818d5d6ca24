"""The browser's client (`imagegen_project/static/js/main.js`) in Chromium, against the running service."""

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from imagegen_project.standalone import paths
from tests.integration.test_live_feeds import feed, web_process
from tests.support.live import Live
from tests.support.service import SAFETY_S

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.asyncio(loop_scope="module")
NO_JOB = "00000000-0000-0000-0000-000000000000"
QUICK: dict[str, Any] = {"prompt": "a red circle", "width": 256, "height": 256, "num_inference_steps": 2}
LONG = QUICK | {"width": 512, "height": 512, "num_inference_steps": 60}

# Runs a door of the client to its end; the page keeps what it saw, so that a test can look meanwhile.
RUN = """async ([options, door, ...call]) => {
  const { Client } = await import("/static/js/main.js");
  window.seen = [];
  window.stop = new AbortController();
  window.client = new Client(options);
  try {
    for await (const event of client[door](...call, { signal: stop.signal })) {
      seen.push(event);
      if (event.type !== "succeeded") continue;
      const [blob] = await client.pictures(event);
      window.picture = document.body.appendChild(new Image());
      picture.src = URL.createObjectURL(blob);
      await picture.decode();
    }
  } catch (error) {
    return { error: { name: error.name, code: error.code, status: error.status, errors: error.errors } };
  }
  return { events: seen, shown: [window.picture?.naturalWidth, window.picture?.naturalHeight] };
}"""


class Sockets:
    """The addresses of the sockets that a page opened."""

    def __init__(self, page: "Page") -> None:
        self.urls: list[str] = []
        page.on("websocket", lambda socket: self.urls.append(socket.url))


async def run(page: "Page", live: Live, door: str, *call: Any, token: str | None = None) -> dict[str, Any]:
    """What came of one call of the client, as the local user or with another token."""
    options = {"token": live.token if token is None else token}
    result: dict[str, Any] = await page.evaluate(RUN, [options, door, *call])
    return result


async def seen(page: "Page", running: "asyncio.Task[Any]", condition: str) -> None:
    """Waits until the running call has seen an event `e` that fits."""
    async with asyncio.timeout(SAFETY_S):
        while not await page.evaluate(f"Boolean(window.seen?.some((e) => {condition}))"):
            assert not running.done(), running.result()
            await asyncio.sleep(0.05)


async def whole_feed(live: Live, job_id: str) -> list[dict[str, Any]]:
    """All events, as the service keeps them."""
    return await feed(live, job_id, "?after=0")


@pytest.mark.parametrize("door", ["generate", "stream"])
async def test_every_event_once_through_a_crash_of_the_server(page: "Page", live: Live, door: str) -> None:
    """The web process is killed in the middle; the page comes back, misses nothing, and shows the picture."""
    sockets = Sockets(page)
    running = asyncio.create_task(run(page, live, door, LONG))
    await seen(page, running, "e.type === 'progress' && e.step >= 3")
    web_process(live).kill()
    result = await running
    events = result["events"]
    assert result["shown"] == [512, 512]
    if door == "stream":
        assert events.pop(0)["type"] == "accepted"
        assert events[-1]["images"][0]["b64_json"]
    stored = await whole_feed(live, events[0]["job_id"])
    assert [event["seq"] for event in events] == [event["seq"] for event in stored]
    told = [event["type"] for event in events if event["type"] not in ("progress", "phase")]
    assert told == ["queued", "started", "succeeded"]
    assert all(after["prev"] == before["seq"] for before, after in pairwise(events))
    assert len(sockets.urls) >= 2
    assert not any(live.token in url for url in sockets.urls)


async def test_a_generation_is_made_once_while_the_server_is_away(page: "Page", live: Live) -> None:
    """The request is sent until it is answered, under one key."""
    await page.evaluate("import('/static/js/main.js')")
    web = web_process(live)
    web.kill()
    prompt = uuid4().hex
    result = await run(page, live, "generate", QUICK | {"prompt": prompt})
    assert result["events"][-1]["type"] == "succeeded"
    newest = live.http.get("/api/v1/generations?limit=5").json()["results"]
    assert [job["prompt"] for job in newest].count(prompt) == 1


async def test_a_generation_is_followed_and_canceled(page: "Page", live: Live) -> None:
    """One that another client made: a snapshot, what happened, and its end."""
    job = live.occupy()
    running = asyncio.create_task(run(page, live, "follow", job["id"]))
    await seen(page, running, "e.type === 'started'")
    await page.evaluate("(id) => client.cancel(id)", job["id"])
    events = (await running)["events"]
    assert [event["type"] for event in events][:3] == ["snapshot", "queued", "started"]
    assert events[-1]["type"] == "canceled"


async def test_a_page_follows_with_its_session(page: "Page", live: Live) -> None:
    """Logged in, without a token; requests that change something carry Django's token against forgery."""
    await page.goto(f"{live.url}/sign-in/?next=/admin/")
    await page.fill("#id_username", "local")
    password = paths.read_secret(live.service.data_dir, "admin_password")
    await page.fill("#id_password", password)
    await page.click('button:text-is("Sign in")')
    await page.wait_for_url("**/admin/")
    sockets = Sockets(page)
    for door in ("generate", "stream"):
        result = await run(page, live, door, QUICK, token="")
        assert (result["events"][-1]["type"], result["shown"]) == ("succeeded", [256, 256])
    assert not any("ticket" in url for url in sockets.urls)


@pytest.mark.parametrize(
    ("door", "call", "token", "code", "status"),
    [
        ("generate", {"prompt": ""}, None, "invalid_request", 400),
        ("stream", {"prompt": ""}, None, "invalid_request", 400),
        ("stream", {"prompt": "a", "model": "none"}, None, "invalid_request", 400),
        ("follow", NO_JOB, None, "generation_not_found", 404),
        ("follow", NO_JOB, "", "not_authenticated", 401),
        ("follow", NO_JOB, "img_wrong", "invalid_token", 401),
        ("stream", QUICK, "", "not_authenticated", 401),
    ],
)
async def test_a_refusal_is_thrown_and_not_tried_again(
    page: "Page", live: Live, door: str, call: Any, token: str | None, code: str, status: int
) -> None:
    sockets = Sockets(page)
    error = (await run(page, live, door, call, token=token))["error"]
    assert (error["name"], error["code"], error["status"]) == ("RefusedError", code, status)
    assert code != "invalid_request" or error["errors"]
    assert len(sockets.urls) <= 1


async def test_an_abort_closes_the_socket(page: "Page", live: Live) -> None:
    """The generation goes on."""
    job = live.occupy()
    running = asyncio.create_task(run(page, live, "follow", job["id"]))
    await seen(page, running, "e.type === 'snapshot'")
    await page.evaluate("stop.abort()")
    assert (await running)["error"]["name"] == "AbortError"
    assert live.get(job["id"])["status"] in ("queued", "running")
    live.http.post(f"/api/v1/generations/{job['id']}/cancel")


async def test_nobody_waits_for_ever_for_a_server_that_is_away(page: "Page", live: Live) -> None:
    """After some tries the failure is thrown."""
    await page.clock.install()
    await page.route("**/api/v1/tickets", lambda route: route.abort())
    running = asyncio.create_task(run(page, live, "follow", NO_JOB))
    while not running.done():
        await page.clock.run_for(15_000)
    assert (await running)["error"]["name"] == "ConnectionLostError"
