"""Django's handler for HTTP, as this project runs it."""

import asyncio
import threading
from typing import Any

import pytest
from asgiref.sync import SyncToAsync
from django.http import HttpRequest, HttpResponse

from imagegen_project.server.handler import OneThreadHandler


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

    async def serve() -> None:
        scope = {
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

        await OneThreadHandler()(scope, receive, send)

    asyncio.run(serve())
    assert sent[0]["status"] == 401
    assert len(changes) <= 3, changes
    assert threads
    assert threads[0] != threading.get_ident()
