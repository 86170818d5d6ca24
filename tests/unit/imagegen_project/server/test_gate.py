"""The gate before Django: bodies, waits, and clients that hang up."""

import asyncio
import json
import logging
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock
from uuid import uuid4

import pytest
from pytest_django import Settings

from generation.compat.shapes import shape_of
from imagegen_project import __version__
from imagegen_project.common.context import address
from imagegen_project.common.waiting import AFTERWARDS_KEY, REQUEST_ID_KEY, WAITED_KEY, Wait
from imagegen_project.server.bodies import TOO_SLOW, Refusal
from imagegen_project.server.gate import LARGE_AT_ONCE, REFUSAL_KEY, RequestGate

WAIT = Wait((uuid4(),), 5.0, "/answer")


class Inner:
    """An application in Django's place: leaves a wait for a POST, answers a GET."""

    def __init__(self, wait: Wait = WAIT) -> None:
        self.wait = wait
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Reads the body, then answers with the method."""
        self.scopes.append(scope)
        while (await receive()).get("more_body"):
            pass
        if scope["method"] == "POST":
            scope[AFTERWARDS_KEY] = self.wait
            scope[REQUEST_ID_KEY] = "abc"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["method"].encode()})


class Ends:
    """When and how the generations end, and which of them were abandoned."""

    def __init__(self) -> None:
        self.result: bool | Exception | None = True
        self.abandoned: list[Any] = []

    async def wait(self, feed_ids: Any, *, seconds: float) -> bool:
        """In the place of the feeds."""
        if self.result is None:
            await asyncio.Event().wait()
        if isinstance(self.result, Exception):
            raise self.result
        return bool(self.result)

    def abandon(self, *, ids: Any) -> None:
        """In the place of the service that cancels."""
        self.abandoned.extend(ids)

    def gate(self, application: Any) -> RequestGate:
        """A gate in front of the application."""
        return RequestGate(application, wait_for_end=self.wait, abandon=self.abandon, error_shape=shape_of)


async def call(
    inner: Any,
    messages: list[Any],
    *,
    method: str = "POST",
    headers: list[Any] | None = None,
    ends: Ends | None = None,
    path: str = "/",
    more: dict[str, Any] | None = None,
) -> list[Any]:
    """What the gate sends; after its messages the client stays, unless it hung up."""
    sent: list[Any] = []

    async def receive() -> Any:
        if messages:
            return messages.pop(0)
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": b"a=1", "headers": headers or []}
    scope |= more or {}
    async with asyncio.timeout(20):
        await (ends or Ends()).gate(inner)(scope, receive, send)
    return sent


BODY = {"type": "http.request", "body": b"{}", "more_body": False}


@pytest.fixture
def ends() -> Ends:
    """When and how the generation ends."""
    return Ends()


async def test_a_wait_is_carried_out_and_then_rendered(ends: Ends) -> None:
    """The first answer is dropped; the second is a GET by the same caller under the same request id."""
    inner = Inner()
    headers = [(b"authorization", b"Bearer x"), (b"content-length", b"2"), (b"x-request-id", b"other")]
    sent = await call(inner, [BODY], headers=headers, ends=ends)
    assert [message.get("body") for message in sent] == [None, b"GET"]
    rendered = inner.scopes[1]
    assert (rendered["path"], rendered["query_string"], rendered[WAITED_KEY]) == ("/answer", b"", True)
    assert rendered["headers"] == [(b"authorization", b"Bearer x"), (b"x-request-id", b"abc")]


async def test_a_wait_that_breaks_is_rendered_too(ends: Ends) -> None:
    """Django then says what is wrong."""
    ends.result = ConnectionError("database away")
    assert (await call(Inner(), [BODY], ends=ends))[-1]["body"] == b"GET"


async def test_a_client_that_hangs_up_is_not_waited_for(ends: Ends) -> None:
    """Nothing is sent and nothing is rendered."""
    ends.result = None
    inner = Inner()
    assert await call(inner, [BODY, {"type": "http.disconnect"}], ends=ends) == []
    assert len(inner.scopes) == 1


@pytest.mark.parametrize("asked", [True, False])
async def test_a_client_that_hangs_up_cancels_where_it_asked_for_that(
    ends: Ends, asked: bool  # noqa: FBT001
) -> None:
    """And else its generation goes on."""
    ends.result = None
    wait = replace(WAIT, cancel_on_disconnect=asked)
    assert await call(Inner(wait), [BODY, {"type": "http.disconnect"}], ends=ends) == []
    assert ends.abandoned == (list(WAIT.feed_ids) if asked else [])


async def test_a_client_that_stays_cancels_nothing(ends: Ends) -> None:
    """Neither at the end nor at the limit of its wait."""
    for ended in (True, False):
        ends.result = ended
        await call(Inner(replace(WAIT, cancel_on_disconnect=True)), [BODY], ends=ends)
    assert ends.abandoned == []


async def test_a_waits_headers_are_added_to_the_answer(ends: Ends) -> None:
    """To what is rendered, beside its own."""
    sent = await call(Inner(replace(WAIT, headers=(("Idempotency-Replayed", "true"),))), [BODY], ends=ends)
    assert sent[0]["headers"] == [(b"idempotency-replayed", b"true")]


async def test_without_a_wait_the_answer_passes(ends: Ends) -> None:
    """Untouched."""
    assert (await call(Inner(), [BODY], method="GET", ends=ends))[-1]["body"] == b"GET"


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_cap_is_413(settings: Settings, declared: bool) -> None:  # noqa: FBT001
    """By its declared length before it is read, else as soon as it has grown too large."""
    settings.MAX_BODY_BYTES = 10
    headers = [(b"content-length", b"11")] if declared else []
    chunks = [{"type": "http.request", "body": b"x" * 6, "more_body": True} for _ in range(3)]
    sent = await call(Inner(), chunks, headers=headers)
    assert sent[0]["status"] == 413
    assert json.loads(sent[1]["body"])["code"] == "body_too_large"
    assert len(chunks) == (3 if declared else 1)


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        *((path, "openai") for path in ("/v1", "/v1/chat/completions", "/v1/models", "/v1/images/edits")),
        *(
            (path, "native")
            for path in ("/v1/", "/v1/generations", "/v1/loras/upload", "/v1/models/load", "/api/v1/models")
        ),
        ("/hf/builtin", "huggingface"),
        ("/sdapi/v1/txt2img", "a1111"),
    ],
)
@pytest.mark.parametrize("refusal", [None, TOO_SLOW, Refusal(401, "not_authenticated", "Send a token.")])
async def test_a_refusal_has_the_paths_own_shape(path: str, shape: str, refusal: Refusal | None) -> None:
    """Whatever it is about, and also where a dialect has no such route."""
    large = [(b"content-length", b"99999999999")]
    headers, code = ([], refusal.code) if refusal else (large, "body_too_large")
    sent = await call(
        Inner(), [BODY], headers=headers, path=path, more={REFUSAL_KEY: refusal} if refusal else {}
    )
    said = json.loads(sent[1]["body"])
    assert sent[0]["status"] == (refusal.status if refusal else 413)
    found = {
        "openai": lambda: (set(said), set(said["error"]), said["error"]["code"]),
        "native": lambda: (said["title"] != "", said["code"]),
        "huggingface": lambda: (set(said), said["error_type"]),
        "a1111": lambda: (set(said), said["error"]),
    }
    assert (
        found[shape]()
        == {
            "openai": ({"error"}, {"message", "type", "param", "code"}, code),
            "native": (True, code),
            "huggingface": ({"error", "error_type"}, code),
            "a1111": ({"error", "detail", "body", "errors"}, code),
        }[shape]
    )


async def test_a_refusals_line_has_its_address(caplog: pytest.LogCaptureFixture) -> None:
    """So that strangers' lines can be counted."""
    seen: list[str] = []
    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(lambda _: seen.append(address.get()) is None)
    await call(Inner(), [BODY], more={REFUSAL_KEY: TOO_SLOW, "client": ("198.51.100.7", 1)})
    assert seen == ["198.51.100.7"]
    assert address.get() == ""


async def test_life_is_told_while_every_place_is_taken(settings: Settings) -> None:
    """An orchestrator must not restart a process whose requests wait for a database that is away."""
    settings.WEB_CONCURRENCY = 1
    entered: list[str] = []

    async def stuck(scope: Any, receive: Any, send: Any) -> None:
        entered.append(scope["path"])
        await asyncio.Event().wait()

    gate = Ends().gate(stuck)
    waiting = []
    for path in ("/first", "/second"):
        scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
        waiting.append(asyncio.create_task(gate(scope, AsyncMock(), AsyncMock())))
        await asyncio.sleep(0)
    assert entered == ["/first"]
    for path in ("/health", "/health/"):
        sent = await call(stuck, [], method="GET", path=path)
        assert (sent[0]["status"], json.loads(sent[1]["body"])) == (
            200,
            {"status": "ok", "version": __version__},
        )
    assert entered == ["/first"]
    for each in waiting:
        each.cancel()


async def test_only_reading_tells_life() -> None:
    """405 for anything else."""
    sent = await call(Inner(), [], path="/health")
    assert (sent[0]["status"], (b"allow", b"GET, HEAD") in sent[0]["headers"]) == (405, True)
    assert (await call(Inner(), [], method="HEAD", path="/health"))[1]["body"] == b""


BASIC = (b"authorization", b"Basic OmltZ18x")
HOST = (b"host", b"localhost:8000")


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ([BASIC, (b"origin", b"https://evil.example")], True),
        ([BASIC, (b"origin", b"null")], True),
        ([BASIC, (b"origin", b"http://localhost:9000")], True),
        ([BASIC, (b"sec-fetch-site", b"cross-site")], True),
        ([BASIC, (b"sec-fetch-site", b"same-site")], True),
        ([BASIC, (b"origin", b"http://localhost:8000"), (b"sec-fetch-site", b"same-origin")], False),
        ([BASIC, (b"sec-fetch-site", b"none")], False),
        ([BASIC], False),
        ([(b"authorization", b"Bearer x"), (b"origin", b"https://evil.example")], False),
    ],
)
async def test_another_sites_page_may_not_use_a_browsers_credentials(
    headers: list[Any], refused: bool  # noqa: FBT001
) -> None:
    """Which it sends along with a form for HTTP Basic, where no other check stands in the way."""
    sent = await call(Inner(), [BODY], headers=[HOST, *headers], path="/sdapi/v1/interrupt")
    assert sent[0]["status"] == (403 if refused else 200)
    if refused:
        assert json.loads(sent[1]["body"])["error"] == "foreign_origin"
    assert (await call(Inner(), [BODY], method="GET", headers=[HOST, *headers]))[0]["status"] == 200


async def test_large_bodies_are_inside_a_few_at_once() -> None:
    """The application holds each several times over; others pass them by."""
    inside: list[Any] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        inside.append(scope["headers"])
        await asyncio.Event().wait()

    gate = Ends().gate(slow)
    large, small = [(b"content-length", b"%d" % (2 * 1024 * 1024))], [(b"content-length", b"2")]
    waiting = []
    for headers in [large] * (LARGE_AT_ONCE + 2) + [small]:
        scope = {"type": "http", "method": "POST", "path": "/api/v1/generations", "headers": headers}
        waiting.append(asyncio.create_task(gate(scope, AsyncMock(), AsyncMock())))
        await asyncio.sleep(0)
    assert inside == [large] * LARGE_AT_ONCE + [small]
    for each in waiting:
        each.cancel()
