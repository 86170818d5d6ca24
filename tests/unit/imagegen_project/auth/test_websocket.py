"""Who opens a socket, and from which page."""

from typing import Any

import pytest
from channels.db import database_sync_to_async
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import Settings

from imagegen_project.auth.services import token_create
from imagegen_project.auth.tickets import ticket_create
from imagegen_project.auth.websocket import OriginMiddleware, SocketAuthMiddleware, origin_is_allowed
from tests.support.hub import HubDouble, Mode, whoami

HUB_TOKEN = "hf_tokenOfNobody"  # noqa: S105 - nobody's
Headers = list[tuple[bytes, bytes]]

needs_database = pytest.mark.django_db(transaction=True)


class Seen:
    """An application that notes the scope that it was given."""

    def __init__(self) -> None:
        self.scope: dict[str, Any] = {}

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.scope = scope


async def opened(
    *, headers: Headers | None = None, subprotocols: list[str] | None = None, query: bytes = b""
) -> dict[str, Any]:
    """The scope that a consumer gets for such a socket."""
    app = Seen()
    scope = {
        "type": "websocket",
        "headers": headers or [],
        "subprotocols": subprotocols or [],
        "query_string": query,
    }
    await SocketAuthMiddleware(app)(scope, None, None)  # type: ignore[arg-type]
    return app.scope


def bearer(token: str) -> Headers:
    return [(b"authorization", f"Bearer {token}".encode())]


@pytest.fixture
def user(transactional_db: None) -> User:
    return User.objects.create_user("ada")


@pytest.fixture
def token(user: User) -> str:
    return token_create(user=user, expires_in=None)


async def test_a_header_opens_a_socket(user: User, token: str) -> None:
    """For clients that can send one."""
    scope = await opened(headers=bearer(token))
    assert (scope["user"], scope["auth_error"], scope["accepted_subprotocol"]) == (user, None, None)


async def test_a_subprotocol_opens_a_socket(user: User, token: str) -> None:
    """`bearer, <token>`: accepted as `bearer`, and the token goes no further."""
    scope = await opened(subprotocols=["bearer", token])
    assert (scope["user"], scope["accepted_subprotocol"]) == (user, "bearer")
    assert scope["subprotocols"] == ["bearer"]


async def test_a_ticket_opens_one_socket(user: User) -> None:
    """The second socket with it is nobody's."""
    query = f"after=5&ticket={await database_sync_to_async(ticket_create)(user=user)}".encode()
    assert (await opened(query=query))["user"] == user
    assert not (await opened(query=query))["user"].is_authenticated


async def test_a_session_opens_a_socket(user: User) -> None:
    """A browser that is logged in needs nothing more; a session that ended opens nothing."""
    client = Client()
    await database_sync_to_async(client.force_login)(user)
    cookie = [(b"cookie", f"x=y; sessionid={client.cookies['sessionid'].value}".encode())]
    assert (await opened(headers=cookie))["user"] == user
    await database_sync_to_async(client.logout)()
    assert not (await opened(headers=cookie))["user"].is_authenticated


@needs_database
async def test_a_hub_token_opens_a_socket(hub: HubDouble) -> None:
    """The same rules as over HTTP."""
    hub.tokens[HUB_TOKEN] = whoami()
    assert (await opened(headers=bearer(HUB_TOKEN)))["user"].get_username() == "alice@huggingface"


@needs_database
@pytest.mark.parametrize("mode", ["429", "500", "hang", "garbage"])
async def test_an_unknown_hub_is_reported(hub: HubDouble, mode: Mode) -> None:
    """Not the token's fault: the consumer can say so."""
    hub.mode = mode
    scope = await opened(headers=bearer(HUB_TOKEN))
    assert not scope["user"].is_authenticated
    assert scope["auth_error"].code == "hub_unavailable"


@needs_database
async def test_an_account_that_is_not_admitted_is_reported(hub: HubDouble, settings: Settings) -> None:
    """The allow-lists hold for sockets too."""
    settings.HUB_ALLOWED_USERS = ["bob"]
    hub.tokens[HUB_TOKEN] = whoami()
    assert (await opened(headers=bearer(HUB_TOKEN)))["auth_error"].code == "hub_user_not_allowed"


async def test_a_lost_redis_is_reported(user: User, settings: Settings) -> None:
    """A ticket cannot be judged then."""
    settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": "redis://127.0.0.1:1/0"}}
    scope = await opened(query=b"ticket=abc")
    assert scope["auth_error"].code == "ticket_store_unavailable"


@pytest.mark.parametrize(
    ("headers", "subprotocols", "query"),
    [
        ([], [], b""),
        (bearer("img_unknown"), [], b""),
        (bearer("sk-unknown"), [], b""),
        ([(b"authorization", b"Bearer \xff\xfe")], [], b""),
        ([], ["bearer"], b""),
        ([], ["bearer", ""], b""),
        ([], ["bearer", "img_unknown"], b""),
        ([], ["graphql-ws"], b""),
        ([], [], b"ticket=unknown"),
        ([], [], b"ticket="),
        ([], [], b"\xff=\xff"),
        ([(b"cookie", b"sessionid=unknown")], [], b""),
        ([(b"cookie", b"\xff;=;;sessionid")], [], b""),
    ],
)
async def test_what_does_not_hold_is_anonymous(
    user: User, headers: Headers, subprotocols: list[str], query: bytes
) -> None:
    """Nothing that a client sends is an error of the server."""
    scope = await opened(headers=headers, subprotocols=subprotocols, query=query)
    assert not scope["user"].is_authenticated
    assert scope["auth_error"] is None


async def test_a_bad_credential_is_not_replaced_by_a_later_one(user: User) -> None:
    """Whoever sends a header means it: the ticket is not spent."""
    query = f"ticket={await database_sync_to_async(ticket_create)(user=user)}".encode()
    assert not (await opened(headers=bearer("img_unknown"), query=query))["user"].is_authenticated
    assert (await opened(query=query))["user"] == user


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://localhost:8000", "localhost:8000", True),
        ("http://LOCALHOST:8000", "localhost:8000", True),
        ("https://example.com", "example.com", True),
        ("https://example.com", "example.com:443", True),
        ("http://example.com:80", "example.com", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://localhost:3000", "localhost:8000", False),
        ("http://evil.example", "localhost:8000", False),
        ("http://evil.example", "evil.example", False),
        ("https://app.trusted.example", "example.com", True),
        ("https://friend.example", "example.com", True),
        ("http://friend.example", "example.com", False),
        ("https://friend.example.evil.example", "example.com", False),
        ("null", "example.com", False),
        ("file://", "", False),
        ("http://[", "example.com", False),
        ("http://example.com:x", "example.com", False),
        ("https://example.com@evil.example", "example.com", False),
    ],
)
def test_origins(settings: Settings, origin: str, host: str, *, allowed: bool) -> None:
    """The page's origin must be this host (a known one), or a trusted origin."""
    settings.ALLOWED_HOSTS = ["localhost", "[::1]", "example.com"]
    settings.CSRF_TRUSTED_ORIGINS = ["https://*.trusted.example", "https://friend.example"]
    assert origin_is_allowed(origin, host) is allowed


class Accepting:
    """An application that accepts every socket."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()


@pytest.mark.parametrize(
    ("origin", "connected"), [(b"", True), (b"http://testserver", True), (b"http://evil.example", False)]
)
async def test_a_foreign_page_is_refused(settings: Settings, origin: bytes, *, connected: bool) -> None:
    """Closed with 4403 before it is accepted; a client without an Origin is no browser."""
    settings.ALLOWED_HOSTS = ["testserver"]
    headers = [(b"host", b"testserver"), *([(b"origin", origin)] if origin else [])]
    socket = WebsocketCommunicator(OriginMiddleware(Accepting()), "/ws/", headers=headers)
    accepted, code = await socket.connect()
    assert accepted is connected
    if connected:
        await socket.disconnect()
    else:
        assert code == 4403


async def test_plain_http_passes_the_origin_check() -> None:
    """Django's own CSRF check stands there."""
    app = Seen()
    scope = {"type": "http", "headers": [(b"origin", b"http://evil.example")]}
    await OriginMiddleware(app)(scope, None, None)  # type: ignore[arg-type]
    assert app.scope is scope
