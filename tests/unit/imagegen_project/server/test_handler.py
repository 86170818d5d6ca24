"""Django's handler for HTTP, as this project runs it."""

import asyncio
import threading
from typing import Any

import pytest
from asgiref.sync import SyncToAsync
from django.http import HttpRequest, HttpResponse

from imagegen_project.server.handler import OneThreadHandler


async def served(handler: OneThreadHandler, sent: list[dict[str, Any]]) -> None:
    """One request, answered."""
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": "/api/v1/me",
        "query_string": b"",
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


def test_a_request_changes_threads_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the signal that it began, for its middleware and view, and for its end; all that in one thread."""
    threads: list[int] = []
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

    asyncio.run(served(OneThreadHandler(), sent))
    assert sent[0]["status"] == 401
    assert len(changes) <= 3, changes
    assert threads
    assert threads[0] != threading.get_ident()


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
