"""Server-sent events: the same feed over HTTP, resumable, for those who may see it."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from pytest_django import Settings

from generation.feed.stream import event_append, events_notify
from generation.models import Generation, Worker
from generation.streams.sse import EventStreams
from imagegen_project.auth.services import token_create
from imagegen_project.auth.tickets import ticket_create
from imagegen_project.common import event_stream
from imagegen_project.common.event_stream import stream_send
from imagegen_project.common.executors import run_in_socket_executor
from imagegen_project.common.waiting import REQUEST_ID_KEY
from imagegen_project.server.middleware import ROUTE_KEY
from imagegen_project.telemetry.logs import ContextFilter
from tests.support.dialects import finish
from tests.support.factories import GenerationMaker

pytestmark = pytest.mark.django_db(transaction=True)

WAIT_S = 20


class Answer:
    """What an ASGI application sent."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.grown = asyncio.Event()
        self.over = False

    async def send(self, message: Any) -> None:
        """Takes one message."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")
            self.over = not message.get("more_body", False)
        self.grown.set()

    @property
    def events(self) -> list[dict[str, str]]:
        """The events, each with its fields."""
        blocks = self.body.decode().split("\n\n")
        lines = [
            [line for line in block.splitlines() if line and not line.startswith(":")] for block in blocks
        ]
        return [dict(line.split(": ", 1) for line in block) for block in lines if block]

    async def until(self, count: int) -> None:
        """Waits for so many events."""
        while len(self.events) < count:
            self.grown.clear()
            await self.grown.wait()


async def nothing_inside(scope: Any, receive: Any, send: Any) -> None:
    """Stands for everything else."""
    await send({"type": "http.response.start", "status": 418, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def scope_of(path: str, *, query: str = "", method: str = "GET", **headers: str) -> dict[str, Any]:
    """A request."""
    headers = {"host": "testserver"} | headers
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": fields,
    }


async def get(path: str, *, hang_up: asyncio.Event | None = None, **request: Any) -> Answer:
    """The whole answer."""
    answer = Answer()
    await fill(answer, path, hang_up=hang_up, **request)
    return answer


async def fill(answer: Answer, path: str, *, hang_up: asyncio.Event | None = None, **request: Any) -> None:
    """Sends a request and takes what comes."""

    async def receive() -> Any:
        await (hang_up or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async with asyncio.timeout(WAIT_S):
        await EventStreams(nothing_inside)(scope_of(path, **request), receive, answer.send)


def url(generation: Generation) -> str:
    """Its stream."""
    return f"/api/v1/generations/{generation.id}/events"


@pytest.fixture
def generation(make: GenerationMaker) -> Generation:
    """A queued one."""
    return make()


@pytest.fixture
def bearer(owner: User) -> str:
    """The owner's Authorization header."""
    return f"Bearer {token_create(user=owner, expires_in=None)}"


async def publish(generation: Generation, event_type: Any, **data: Any) -> int:
    """Puts an event into the feed and returns its number."""
    event = await asyncio.to_thread(event_append, generation.id, event_type, attempt=1, **data)
    assert event is not None
    events_notify([event])
    return event["seq"]


async def test_a_stream_is_the_feed(generation: Generation, bearer: str) -> None:
    """Snapshot, events as they come, and an end; each with its number."""
    answer = Answer()
    streaming = asyncio.create_task(fill(answer, url(generation) + "/", authorization=bearer))
    await answer.until(2)
    seq = await publish(generation, "canceled")
    await streaming
    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
    assert answer.headers["x-job-id"] == str(generation.id)
    assert [event["event"] for event in answer.events] == ["snapshot", "queued", "canceled"]
    last = answer.events[-1]
    assert (last["id"], json.loads(last["data"])["seq"]) == (str(seq), seq)
    assert answer.over


async def test_a_stream_is_resumed(generation: Generation, bearer: str) -> None:
    """Behind Last-Event-ID, or `after`; a browser that asks again after the end is told to stop."""
    seen = await publish(generation, "started")
    last = await publish(generation, "progress", step=1)
    final = await publish(generation, "canceled")
    requests: list[dict[str, Any]] = [{"last_event_id": str(seen)}, {"query": f"after={seen}"}]
    for request in requests:
        answer = await get(url(generation), authorization=bearer, **request)
        assert [event["id"] for event in answer.events] == [str(last), str(final)]


async def test_after_the_last_event_there_is_nothing(
    generation: Generation, bearer: str, worker: Worker
) -> None:
    """204 makes a browser stop asking."""
    await run_in_socket_executor(finish, generation, worker)
    final = await publish(generation, "succeeded", images=[])
    answer = await get(url(generation), authorization=bearer, last_event_id=str(final))
    assert (answer.status, answer.body) == (204, b"")
    answer = await get(url(generation), authorization=bearer, last_event_id=str(final - 1))
    assert [event["event"] for event in answer.events] == ["succeeded"]


async def test_tickets_open_streams_once(generation: Generation, owner: User) -> None:
    ticket = await asyncio.to_thread(ticket_create, user=owner)
    await publish(generation, "canceled")
    assert (await get(url(generation), query=f"ticket={ticket}")).status == 200
    assert (await get(url(generation), query=f"ticket={ticket}")).status == 401


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({}, 401, "not_authenticated"),
        ({"authorization": "Bearer img_wrong"}, 401, "invalid_token"),
        ({"method": "POST"}, 405, "method_not_allowed"),
    ],
)
async def test_refusals(generation: Generation, request_: Any, status: int, code: str) -> None:
    """As problems, before anything is streamed."""
    answer = await get(url(generation), **request_)
    assert (answer.status, json.loads(answer.body)["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert status != 401 or answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("number", ["x", "-1", "1.5", "9" * 5000, "²"])
async def test_bad_numbers_are_refused(generation: Generation, bearer: str, number: str) -> None:
    answer = await get(url(generation), authorization=bearer, last_event_id=number)
    assert answer.status == 400


async def test_somebody_elses_stream_is_not_there(generation: Generation, stranger: User) -> None:
    token = await run_in_socket_executor(token_create, user=stranger, expires_in=None)
    for path in (url(generation), f"/v1/generations/{uuid4()}/events"):
        answer = await get(path, authorization=f"Bearer {token}")
        assert (answer.status, json.loads(answer.body)["code"]) == (404, "generation_not_found")


async def test_the_route_is_known_to_metrics(generation: Generation) -> None:
    scope, answer = scope_of(url(generation)), Answer()
    await EventStreams(nothing_inside)(scope, asyncio.Event().wait, answer.send)
    assert (answer.status, scope[ROUTE_KEY]) == (401, "api:generation-events")


@pytest.mark.parametrize("given", ["abc.1", "not one"])
async def test_a_stream_has_one_request_id(
    generation: Generation, bearer: str, given: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The given one, if it is one: in the answer, in problems, and in the log."""
    caplog.handler.addFilter(ContextFilter())
    await publish(generation, "canceled")
    answer = await get(url(generation), authorization=bearer, x_request_id=given)
    told = answer.headers["x-request-id"]
    assert (told == given) == (given == "abc.1")
    line = next(record for record in caplog.records if record.message == "stream")
    facts = vars(line)
    assert (facts["request_id"], facts["user"], facts["status"]) == (told, generation.owner.username, 200)
    refused = await get(url(generation), x_request_id="abc.1")
    assert json.loads(refused.body)["request_id"] == refused.headers["x-request-id"] == "abc.1"


async def test_plain_http_is_redirected_where_django_would(
    generation: Generation, bearer: str, settings: Settings
) -> None:
    """Before the credential is looked at; not where the proxy says that it was HTTPS."""
    await publish(generation, "canceled")
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    answer = await get(url(generation), query="after=1", authorization=bearer)
    assert answer.status == 301
    assert answer.headers["location"] == f"https://testserver{url(generation)}?after=1"
    answer = await get(url(generation), authorization=bearer, x_forwarded_proto="https")
    assert answer.status == 200


async def test_unknown_hosts_are_refused(generation: Generation, bearer: str) -> None:
    answer = await get(url(generation), authorization=bearer, host="evil.example")
    assert (answer.status, json.loads(answer.body)["code"]) == (400, "bad_request")


async def test_everything_else_goes_inside(generation: Generation) -> None:
    assert (await get(f"/api/v1/generations/{generation.id}")).status == 418


async def test_a_hang_up_ends_the_stream(generation: Generation, bearer: str) -> None:
    answer, hang_up = Answer(), asyncio.Event()
    streaming = asyncio.create_task(fill(answer, url(generation), authorization=bearer, hang_up=hang_up))
    await answer.until(2)
    hang_up.set()
    await streaming
    assert answer.over


async def test_silence_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nothing between here and the client thinks the connection dead."""
    monkeypatch.setattr(event_stream, "HEARTBEAT_S", 0.01)
    answer, go = Answer(), asyncio.Event()

    async def items() -> Any:
        await go.wait()
        yield b"event: x\n\n"

    async def receive() -> Any:
        return await asyncio.Event().wait()

    sending = asyncio.create_task(stream_send({REQUEST_ID_KEY: "abc"}, receive, answer.send, items()))
    async with asyncio.timeout(WAIT_S):
        while answer.body.count(event_stream.HEARTBEAT) < 4:
            answer.grown.clear()
            await answer.grown.wait()
        go.set()
        await sending
    assert answer.body.endswith(b"event: x\n\n")
