"""One job, every door: the same pixels, and each job in the native API."""

import asyncio
import base64
import contextlib
import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx2
import openai
import pytest
import websockets
import webuiapi
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import close_session
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.integration.test_live_feeds import feed
from tests.support.live import Live
from tests.support.pictures import decoded, encoded
from tests.support.service import SAFETY_S, wait_for

REQUEST: dict[str, Any] = {
    "prompt": "a red circle",
    "width": 256,
    "height": 256,
    "num_inference_steps": 3,
    "guidance_scale": 4.0,
    "seed": 11,
    "scheduler": "euler",
}


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_session()


def socket_url(live: Live, kind: str = "txt2img") -> str:
    """The address of a streaming socket."""
    return f"ws://127.0.0.1:{live.service.port}/stream/generate/{kind}"


async def streamed(live: Live, message: Any, *, kind: str = "txt2img") -> tuple[list[Any], int | None]:
    """What a socket answers to a first message, and its close code."""
    events: list[Any] = []
    async with (
        asyncio.timeout(SAFETY_S),
        websockets.connect(socket_url(live, kind), additional_headers=live.headers, max_size=None) as socket,
    ):
        await socket.send(message if isinstance(message, str) else json.dumps(message))
        try:
            while True:
                events.append(json.loads(await socket.recv()))
        except ConnectionClosed:
            return events, socket.close_code


def pixels(file: bytes) -> bytes:
    """What is drawn."""
    return decoded(file).convert("RGB").tobytes()


async def test_the_same_pixels_through_every_door(live: Live) -> None:
    """Equal requests, equal seeds."""
    native = live.http.post("/api/v1/generate/txt2img", json=REQUEST).json()
    expected = pixels(base64.b64decode(native["images"][0]["b64_json"]))

    events, code = await streamed(live, REQUEST)
    assert code == 1000
    assert pixels(base64.b64decode(events[-1]["images"][0]["b64_json"])) == expected
    types = [event["type"] for event in events if event["type"] not in ("progress", "phase")]
    assert types == ["accepted", "queued", "started", "succeeded"]
    assert [event["prev"] for event in events[2:]] == [event["seq"] for event in events[1:-1]]

    def others() -> list[bytes]:
        with openai.OpenAI(base_url=f"{live.url}/v1", api_key=live.token) as client:
            extra = {name: REQUEST[name] for name in ("num_inference_steps", "guidance_scale", "seed")}
            # OpenAI has no word for schedulers: the model's own is used, so it is compared with that.
            answer = client.images.generate(prompt=REQUEST["prompt"], size="256x256", extra_body=extra)
        assert answer.data is not None
        own = live.http.post(
            "/api/v1/generate/txt2img", json={k: v for k, v in REQUEST.items() if k != "scheduler"}
        ).json()
        assert pixels(base64.b64decode(answer.data[0].b64_json or "")) == pixels(
            base64.b64decode(own["images"][0]["b64_json"])
        )
        hub = InferenceClient(model=f"{live.url}/hf/builtin", token=live.token)
        by_hub = hub.text_to_image(
            REQUEST["prompt"],
            **{k: v for k, v in REQUEST.items() if k not in ("prompt", "scheduler")},
            scheduler="EulerDiscreteScheduler",
        )
        webui = webuiapi.WebUIApi(host="127.0.0.1", port=live.service.port, username="x", password=live.token)
        with webui.session:
            by_webui = webui.txt2img(
            prompt=REQUEST["prompt"], width=256, height=256, steps=3, cfg_scale=4.0, seed=11,
            sampler_name="Euler",
        ).image  # fmt: skip
        return [image.convert("RGB").tobytes() for image in (by_hub, by_webui)]

    assert await asyncio.to_thread(others) == [expected, expected]


def _by_openai(live: Live, prompt: str) -> None:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=live.token) as client:
        client.images.generate(prompt=prompt, extra_body={"num_inference_steps": 100})


def _by_huggingface(live: Live, prompt: str) -> None:
    client = InferenceClient(model=f"{live.url}/hf/builtin", token=live.token)
    client.text_to_image(prompt, num_inference_steps=100)


def _by_webui(live: Live, prompt: str) -> None:
    webui = webuiapi.WebUIApi(host="127.0.0.1", port=live.service.port, username="x", password=live.token)
    with webui.session:
        webui.txt2img(prompt=prompt, width=1024, height=1024, steps=100)


@pytest.mark.parametrize(
    ("draw", "error"),
    # A1111 answers an interrupted request with what there is of it.
    [(_by_openai, openai.ConflictError), (_by_huggingface, HfHubHTTPError), (_by_webui, None)],
    ids=["openai", "huggingface", "a1111"],
)
async def test_a_job_of_each_dialect_is_native(live: Live, draw: Any, error: type[Exception] | None) -> None:
    """Seen, watched and canceled through the native API; its client raises its own error."""
    prompt = uuid4().hex

    def jobs() -> list[str]:
        newest = live.http.get("/api/v1/generations").json()["results"]
        return [job["id"] for job in newest if job["prompt"] == prompt]

    with live.undrawn():
        drawing = asyncio.create_task(asyncio.to_thread(draw, live, prompt))
        await asyncio.to_thread(wait_for, jobs, "the job")
        (job_id,) = jobs()
        watching = asyncio.create_task(feed(live, job_id))
        live.http.post(f"/api/v1/generations/{job_id}/cancel")
        assert [event["type"] for event in await watching][-2:] == ["queued", "canceled"]
        with pytest.raises(error) if error else contextlib.nullcontext():
            await drawing


async def test_large_first_messages(live: Live) -> None:
    """More than the server's default of 1 MiB is taken; over 16 MiB the socket is closed."""
    noise = Image.effect_noise((1200, 1200), 100).convert("RGB")
    picture = base64.b64encode(encoded(noise)).decode("ascii")
    assert len(picture) > 1_500_000
    events, code = await streamed(live, REQUEST | {"image": picture, "strength": 0.5}, kind="img2img")
    assert (events[0]["type"], code) == ("accepted", 1000)
    events, code = await streamed(live, json.dumps(REQUEST) + " " * (15 * 1024 * 1024))
    assert (events[0]["code"], code) == ("message_too_large", 4413)


async def test_a_job_of_one_door_is_canceled_through_another(live: Live) -> None:
    """A socket starts it, the native API cancels it, and the socket hears of it; and the other way round."""
    long = REQUEST | {"num_inference_steps": 100, "width": 1024, "height": 1024}
    async with (
        asyncio.timeout(SAFETY_S),
        websockets.connect(socket_url(live), additional_headers=live.headers) as socket,
    ):
        await socket.send(json.dumps(long))
        job_id = json.loads(await socket.recv())["job_id"]
        await asyncio.to_thread(live.http.post, f"/api/v1/generations/{job_id}/cancel")
        last: Any = {}
        async for message in socket:
            last = json.loads(message)
        assert (last["type"], last["job_id"]) == ("canceled", job_id)
    async with (
        asyncio.timeout(SAFETY_S),
        websockets.connect(socket_url(live), additional_headers=live.headers) as socket,
    ):
        await socket.send(json.dumps(long))
        job_id = json.loads(await socket.recv())["job_id"]
        await socket.send('{"type": "cancel"}')
        async for message in socket:
            last = json.loads(message)
    assert (last["type"], live.get(job_id)["status"]) == ("canceled", "canceled")


@pytest.mark.parametrize(
    ("message", "code", "close"),
    [("{", "protocol_error", 4400), ('{"prompt": ""}', "invalid_request", 4400)],
)
async def test_mistakes_close_with_their_code(live: Live, message: str, code: str, close: int) -> None:
    events, closed = await streamed(live, message)
    assert (events[-1]["code"], closed) == (code, close)


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer img_no"}, {"Origin": "https://evil.example"}]
)
async def test_strangers_are_refused(live: Live, headers: dict[str, str]) -> None:
    """Before the socket opens; a foreign page even with a token."""
    if "Origin" in headers:
        headers = headers | live.headers
    with pytest.raises(InvalidStatus) as refused:
        await websockets.connect(socket_url(live), additional_headers=headers)
    assert refused.value.response.status_code == 403


async def test_a_large_message_on_a_feed_is_refused(live: Live) -> None:
    """2 MB where 64 kB are the limit."""
    with live.undrawn():
        job = live.create()
        async with (
            asyncio.timeout(SAFETY_S),
            websockets.connect(live.socket_url(job["id"]), additional_headers=live.headers) as socket,
        ):
            await socket.send("x" * 2_000_000)
            await socket.wait_closed()
            assert socket.close_code == 4413


async def test_server_sent_events(live: Live) -> None:
    """The same feed over HTTP; resumed behind an event; 204 after the last one."""
    job = await asyncio.to_thread(lambda: live.wait(live.create(steps=5)["id"]))
    url = f"/api/v1/generations/{job['id']}/events"

    async def read(**headers: str) -> list[Any]:
        async with (
            httpx2.AsyncClient(base_url=live.url, headers=live.headers, timeout=SAFETY_S) as http,
            http.stream("GET", url, headers=headers) as answer,
        ):
            assert answer.headers["content-type"] == "text/event-stream"
            return [json.loads(line[6:]) async for line in answer.aiter_lines() if line.startswith("data: ")]

    events = await read()
    assert [event["type"] for event in events][:3] == ["snapshot", "queued", "started"]
    assert events[-1]["type"] == "succeeded"
    assert await read(**{"Last-Event-ID": str(events[3]["seq"])}) == events[4:]
    over = live.http.get(url, headers={"Last-Event-ID": str(events[-1]["seq"])})
    assert over.status_code == 204


async def test_five_hundred_streams_hold_no_threads(live: Live) -> None:
    """On one web process, each to the end."""
    web = next(process for process in live.service.family() if "daphne" in process.cmdline())
    opened, streams = 0, 500
    all_open = asyncio.Event()

    async def follow(http: httpx2.AsyncClient, job_id: str) -> str:
        nonlocal opened
        last = ""
        async with http.stream("GET", f"/api/v1/generations/{job_id}/events") as answer:
            async for line in answer.aiter_lines():
                if line.startswith("event: snapshot"):
                    opened += 1
                    if opened == streams:
                        all_open.set()
                if line.startswith("event: "):
                    last = line.removeprefix("event: ")
        return last

    limits = httpx2.Limits(max_connections=streams)
    async with (
        asyncio.timeout(SAFETY_S),
        httpx2.AsyncClient(base_url=live.url, headers=live.headers, timeout=SAFETY_S, limits=limits) as http,
    ):
        with live.undrawn():
            job_id = live.create()["id"]
            following = [asyncio.create_task(follow(http, job_id)) for _ in range(streams)]
            await all_open.wait()
            assert web.num_threads() < 40
            await asyncio.to_thread(live.http.post, f"/api/v1/generations/{job_id}/cancel")
            assert set(await asyncio.gather(*following)) == {"canceled"}
