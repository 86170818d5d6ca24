"""Django's handler for HTTP, as this project runs it."""

import asyncio
import threading
from io import BytesIO
from typing import Any

import pytest
from asgiref.sync import SyncToAsync
from django.core.signals import request_finished
from django.http import FileResponse, HttpRequest, HttpResponse

from imagegen_project.server.handler import OneThreadHandler


async def served(handler: OneThreadHandler, sent: list[dict[str, Any]], *, query: bytes = b"") -> None:
    """One request, answered."""
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": "/api/v1/me",
        "query_string": query,
        "headers": [(b"host", b"localhost")],
    }
    body = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if body:
            return body.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await handler(scope, receive, send)


def test_a_request_changes_threads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its beginning, middleware, view and end come in one go, and before the answer is sent."""
    threads: list[int] = []
    ended: list[int] = []
    changes: list[Any] = []
    call = SyncToAsync.__call__

    async def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        changes.append(self.func)
        return await call(self, *args, **kwargs)

    def process(handler: OneThreadHandler, request: HttpRequest) -> HttpResponse:
        threads.append(threading.get_ident())
        return original(handler, request)

    original = OneThreadHandler._get_response
    monkeypatch.setattr(OneThreadHandler, "_get_response", process)
    monkeypatch.setattr(SyncToAsync, "__call__", noted)
    sent: list[dict[str, Any]] = []

    def finished(**_: Any) -> None:
        assert not sent
        ended.append(threading.get_ident())

    request_finished.connect(finished)
    try:
        asyncio.run(served(OneThreadHandler(), sent))
    finally:
        request_finished.disconnect(finished)
    assert sent[0]["status"] == 401
    assert len(changes) == 1, changes
    assert threads == ended != [threading.get_ident()]


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")  # as it does of WhiteNoise's files
def test_a_file_that_is_streamed_is_closed_behind_its_last_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    file = BytesIO(bytes(200_000))
    monkeypatch.setattr(OneThreadHandler, "_get_response", lambda *_: FileResponse(file))
    sent: list[dict[str, Any]] = []

    asyncio.run(served(OneThreadHandler(), sent))
    assert b"".join(message.get("body", b"") for message in sent) == bytes(200_000)
    assert file.closed


class HangsUp(list[dict[str, Any]]):
    """What is sent to a client that goes at the first piece: the server cancels whoever sends."""

    def append(self, message: dict[str, Any]) -> None:
        super().append(message)
        if message["type"] == "http.response.body":
            raise asyncio.CancelledError


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")  # as it does of WhiteNoise's files
def test_a_file_is_closed_too_where_the_client_hangs_up(monkeypatch: pytest.MonkeyPatch) -> None:
    file = BytesIO(bytes(200_000))
    monkeypatch.setattr(OneThreadHandler, "_get_response", lambda *_: FileResponse(file))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(served(OneThreadHandler(), HangsUp()))
    assert file.closed


def test_what_is_no_request_is_refused() -> None:
    sent: list[dict[str, Any]] = []

    asyncio.run(served(OneThreadHandler(), sent, query=b"\xff"))
    assert sent[0]["status"] == 400


def test_threads_stay_for_the_next_request_and_none_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once have one each, and nobody starts another as long as one of them is idle."""
    threads: list[threading.Thread] = []
    both = threading.Barrier(2, timeout=30)

    def process(handler: OneThreadHandler, request: HttpRequest) -> HttpResponse:
        threads.append(threading.current_thread())
        if len(threads) > 1:  # the first one is alone
            both.wait()
        return HttpResponse()

    monkeypatch.setattr(OneThreadHandler, "_get_response", process)

    async def serve() -> None:
        handler = OneThreadHandler()
        await served(handler, [])
        await asyncio.gather(served(handler, []), served(handler, []))
        await asyncio.gather(served(handler, []), served(handler, []))

    asyncio.run(serve())
    first, *rest = threads
    assert len(set(rest[:2])) == len(set(rest[2:])) == 2
    assert set(rest[2:]) == set(rest[:2])
    assert first in rest[:2]
