"""ASGI middleware: who opens a socket, and from which page."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from urllib.parse import SplitResult, parse_qs, urlsplit

from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.auth.models import AnonymousUser, User
from django.http import HttpRequest, parse_cookie
from django.http.request import split_domain_port, validate_host
from django.utils.http import is_same_domain
from rest_framework.exceptions import AuthenticationFailed

from imagegen_project.auth.authentication import bearer_token, local_user, token_kind
from imagegen_project.auth.failures import client_address, failure_note, failures_check, success_note
from imagegen_project.auth.identity import hub_identity
from imagegen_project.auth.services import user_for_hub_identity
from imagegen_project.auth.tickets import ticket_redeem
from imagegen_project.common.asgi import Application, Receive, Scope, Send
from imagegen_project.common.context import username
from imagegen_project.common.errors import DomainError
from imagegen_project.common.executors import run_in_socket_executor

SUBPROTOCOL = "bearer"
CLOSE_FORBIDDEN_ORIGIN = 4403
DEFAULT_PORTS = {"http": 80, "https": 443}
LOCAL_HOSTS = [".localhost", "127.0.0.1", "[::1]"]

# A slow Hub may hold these, never the threads that read the database for open sockets.
HUB_EXECUTOR = ThreadPoolExecutor(max_workers=4, thread_name_prefix="socket-hub")


class SocketAuthMiddleware:
    """Sets `scope["user"]` from the first credential there is: header, subprotocol, ticket, session cookie.

    A credential that does not hold leaves AnonymousUser; later ones are not tried. `scope["auth_error"]` is
    the DomainError (Hub or Redis down, account not allowed) that a consumer should report, or None.
    `scope["accepted_subprotocol"]` is what the consumer must accept with, or None.
    """

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Authenticates, then passes on."""
        scope = dict(scope, user=AnonymousUser(), auth_error=None, accepted_subprotocol=None)
        try:
            scope["user"] = await scope_user(scope) or AnonymousUser()
            username.set(scope["user"].get_username())
        except AuthenticationFailed:
            pass
        except DomainError as error:
            scope["auth_error"] = error
        await self.app(scope, receive, send)


async def scope_user(scope: Scope) -> User | None:
    """The user of a connection's first credential, None without one. Raises as `user_of_token` does."""
    if (token := bearer_token(_header(scope, b"authorization"))) is not None:
        return await _token_user(token, scope)
    offered = list(scope.get("subprotocols", []))
    if offered[:1] == [SUBPROTOCOL]:
        scope["accepted_subprotocol"] = SUBPROTOCOL
        scope["subprotocols"] = [SUBPROTOCOL]  # the token goes no further
        return await _token_user(bearer_token(f"Bearer {''.join(offered[1:2])}") or "", scope)
    if tickets := parse_qs(scope.get("query_string", b"").decode("latin-1")).get("ticket"):
        return await run_in_socket_executor(ticket_redeem, tickets[0])
    session_key = parse_cookie(_header(scope, b"cookie")).get(settings.SESSION_COOKIE_NAME)
    return await run_in_socket_executor(_session_user, session_key) if session_key else None


async def _token_user(token: str, scope: Scope) -> User:
    peer = (scope.get("client") or ("",))[0]
    address = client_address(peer=peer, forwarded_for=_header(scope, b"x-forwarded-for"))
    await run_in_socket_executor(failures_check, address=address, credential=token)
    try:
        user = await _user_of(token)
    except AuthenticationFailed:
        await run_in_socket_executor(failure_note, address=address, credential=token)
        raise
    await run_in_socket_executor(success_note, credential=token)
    return user


async def _user_of(token: str) -> User:
    if token_kind(token) == "local":
        return await run_in_socket_executor(local_user, token)
    loop = asyncio.get_running_loop()
    identity = await loop.run_in_executor(HUB_EXECUTOR, lambda: hub_identity(token=token))
    return await run_in_socket_executor(user_for_hub_identity, identity=identity)


def _session_user(session_key: str) -> User | None:
    """The user of a Django session, by Django's own rules.

    Not channels' AuthMiddleware: it reads every session in the one thread that the whole process shares.
    """
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    user = get_user(request)
    return user if isinstance(user, User) else None


class OriginMiddleware:
    """Refuses sockets that another site's page opens (a browser would send this site's cookie along).

    Pages of the same host and of CSRF_TRUSTED_ORIGINS may; a client without an Origin header is no browser.
    """

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on, or closes with 4403 before accepting."""
        origin = _header(scope, b"origin")
        if scope["type"] == "websocket" and origin and not origin_is_allowed(origin, _header(scope, b"host")):
            await receive()  # the protocol wants websocket.connect to be read first
            await send({"type": "websocket.close", "code": CLOSE_FORBIDDEN_ORIGIN})
            return
        await self.app(scope, receive, send)


def origin_is_allowed(origin: str, host: str) -> bool:
    """Whether a page of `origin` may open a socket at `host` (the rules of Django's CSRF check)."""
    try:
        parts = urlsplit(origin.lower())
        same = _place(parts) == _place(urlsplit(f"{parts.scheme}://{host.lower()}"))
    except ValueError:
        return False
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        return False
    if origin.lower() in settings.CSRF_TRUSTED_ORIGINS or _matches_wildcard(parts.scheme, parts.netloc):
        return True
    # A foreign name that resolves to this machine (DNS rebinding) would be the same as itself.
    known = settings.ALLOWED_HOSTS or (LOCAL_HOSTS if settings.DEBUG else [])
    return same and validate_host(split_domain_port(host.lower())[0], known)


def _place(url: SplitResult) -> tuple[str | None, int | None]:
    return url.hostname, url.port or DEFAULT_PORTS.get(url.scheme)


def _matches_wildcard(scheme: str, netloc: str) -> bool:
    patterns = [urlsplit(trusted.lower()) for trusted in settings.CSRF_TRUSTED_ORIGINS if "*" in trusted]
    return any(
        pattern.scheme == scheme and is_same_domain(netloc, pattern.netloc.lstrip("*"))
        for pattern in patterns
    )


def _header(scope: Scope, name: bytes) -> str:
    """A header's value; those of a repeated one in a row, as Django has them."""
    found = [bytes(value).decode("latin-1") for key, value in scope.get("headers", []) if key.lower() == name]
    return ",".join(found)
