"""Sockets in the log: one line each, under one request id."""

import asyncio
import json
import logging
from typing import Any

import pytest
from pytest_django import Settings

from imagegen_project.common.context import address, base_url, request_id
from imagegen_project.common.executors import run_in_socket_executor
from imagegen_project.server.connections import CLOSE_TOO_MANY, ConnectionContext, UserConnections
from imagegen_project.telemetry.logs import ContextFilter


async def socket(messages: list[Any], headers: list[Any] | None = None) -> list[str]:
    """Opens a socket to which these messages are sent; the request ids of the application and its threads."""
    found: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        found.append(request_id.get())
        found.append(await run_in_socket_executor(request_id.get))
        for message in messages:
            await send(message)

    async def nothing(*_: Any) -> None:
        pass

    scope = {
        "type": "websocket",
        "path": "/ws/x",
        "query_string": b"ticket=x",
        "headers": headers or [],
        "client": ("198.51.100.7", 1),
    }
    await ConnectionContext(application)(scope, nothing, nothing)
    return found


ACCEPT = {"type": "websocket.accept"}


@pytest.mark.parametrize(
    ("scheme", "host", "expected"),
    [
        ("ws", b"127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("wss", b"localhost", "https://localhost"),
        ("ws", b"x.y", ""),
    ],
)
async def test_a_socket_knows_where_its_client_reaches_the_service(
    settings: Settings, scheme: str, host: bytes, expected: str
) -> None:
    """For the addresses in webhooks of what it makes; not by a name that the service does not go by."""
    settings.ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
    found: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        found.append(await run_in_socket_executor(base_url.get))

    async def nothing(*_: Any) -> None:
        pass

    scope = {
        "type": "websocket",
        "path": "/x",
        "query_string": b"",
        "headers": [(b"host", host)],
        "scheme": scheme,
    }
    await ConnectionContext(application)(scope, nothing, nothing)
    assert found == [expected]


@pytest.mark.parametrize(
    ("messages", "outcome"),
    [
        ([ACCEPT, {"type": "websocket.close", "code": 4404}], {"status": 101, "code": 4404}),
        ([ACCEPT], {"status": 101}),
        ([{"type": "websocket.close"}], {"status": 403, "code": 1000}),
    ],
    ids=["closed", "hung up", "refused"],
)
async def test_a_socket_has_one_line(
    messages: list[Any], outcome: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    """How it went, and no ticket."""
    caplog.set_level(logging.INFO)
    await socket(messages)
    facts = vars(next(record for record in caplog.records if record.message == "socket"))
    assert {name: facts[name] for name in ("status", "code") if name in facts} == outcome
    assert facts["path"] == "/ws/x"


async def test_a_socket_has_one_request_id(caplog: pytest.LogCaptureFixture) -> None:
    """The given one or a new one; in its threads, too."""
    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(ContextFilter())
    given = await socket([], [(b"x-request-id", b"abc.1")])
    assert set(given) == {"abc.1"}
    made, *others = await socket([], [(b"x-request-id", b"no id")])
    assert made
    assert set(others) == {made}
    assert [vars(record)["request_id"] for record in caplog.records] == ["abc.1", made]


class Person:
    """Somebody, as far as a connection's scope shows."""

    def __init__(self, pk: int | None) -> None:
        self.pk = pk


async def test_one_users_connections_are_bounded(settings: Settings) -> None:
    """Sockets and streams together; others, and later ones, are served."""
    settings.CONNECTIONS_PER_USER = 2
    over = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "served"})
        await over.wait()

    served = UserConnections(application)

    async def connect(kind: str, person: Person) -> tuple[Any, list[Any]]:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        task = asyncio.create_task(served({"type": kind, "path": "/x", "user": person}, receive, send))
        while not sent:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        return task, sent

    ada, bob, nobody = Person(1), Person(2), Person(None)
    tasks = [(await connect(kind, ada))[0] for kind in ("websocket", "http")]
    assert (await connect("websocket", ada))[1] == [{"type": "websocket.close", "code": CLOSE_TOO_MANY}]
    refused = (await connect("http", ada))[1]
    assert refused[0]["status"] == 429
    assert json.loads(refused[1]["body"])["code"] == "too_many_connections"
    for other in (bob, nobody, nobody, nobody):
        task, sent = await connect("websocket", other)
        assert sent == [{"type": "served"}]
        tasks.append(task)
    over.set()
    await asyncio.gather(*tasks)
    assert (await connect("http", ada))[1] == [{"type": "served"}]


async def test_a_sockets_line_has_its_address(caplog: pytest.LogCaptureFixture) -> None:
    """So that strangers' lines can be counted."""
    seen: list[str] = []
    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(lambda _: seen.append(address.get()) is None)
    await socket([])
    assert seen == ["198.51.100.7"]
    assert address.get() == ""
