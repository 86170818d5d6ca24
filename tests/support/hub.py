"""A small Hugging Face Hub on a loopback port: real HTTP, so that the real client is what is tested.

Knows `GET /api/whoami-v2`; further routes are added with `HubDouble.route`, repositories with
`tests.support.hub_repository.HubRepository`.
"""

import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Mode = Literal["ok", "429", "500", "hang", "garbage"]
Outage = Literal["429", "500", "hang", "garbage", "gone"]
HANG_LIMIT_S = 30


@dataclass(frozen=True)
class HubReply:
    """An answer: a JSON value, bytes as they are, or pieces of a body whose length is among the headers."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HubRequest:
    """A request as the Hub saw it; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    match: re.Match[str] | None = None

    @property
    def token(self) -> str:
        """The bearer token, or ""."""
        return self.headers.get("authorization", "").removeprefix("Bearer ")


Route = Callable[[HubRequest], HubReply]

# As the Hub answers a token that it does not know.
UNAUTHORIZED = HubReply(
    401,
    {"error": "Invalid username or password."},
    {
        "X-Error-Code": "",
        "X-Error-Message": "Invalid username or password.",
        "WWW-Authenticate": 'Bearer realm="Authentication required", charset="UTF-8"',
    },
)


def whoami(
    name: str = "alice",
    *,
    hub_id: str = "5f0c746619cb630495b814fd",
    role: str = "read",
    orgs: tuple[str, ...] = (),
    scoped: tuple[str, ...] = (),
    global_permissions: tuple[str, ...] = (),
    can_read_gated: bool = False,
) -> dict[str, Any]:
    """A whoami-v2 reply; the permissions only matter with `role="fineGrained"`."""
    token: dict[str, Any] = {
        "displayName": "for tests",
        "role": role,
        "createdAt": "2026-01-02T03:04:05.000Z",
    }
    if role == "fineGrained":
        entity = {"_id": hub_id, "type": "user", "name": name}
        token["fineGrained"] = {
            "canReadGatedRepos": can_read_gated,
            "global": list(global_permissions),
            "scoped": [{"entity": entity, "permissions": list(scoped)}] if scoped else [],
        }
    return {
        "type": "user",
        "id": hub_id,
        "name": name,
        "fullname": name.title(),
        "email": f"{name}@example.org",
        "emailVerified": True,
        "canPay": False,
        "isPro": False,
        "periodEnd": None,
        "avatarUrl": "https://example.org/avatar.png",
        "orgs": [{"type": "org", "id": f"id-of-{org}", "name": org, "roleInOrg": "read"} for org in orgs],
        "auth": {"type": "access_token", "accessToken": token},
    }


def _pieces(reply: HubReply) -> tuple[Iterator[bytes], dict[str, str]]:
    """A reply's body and all its headers."""
    headers = {"Content-Type": "application/json; charset=utf-8", **reply.headers}
    if isinstance(reply.body, Iterator):
        return reply.body, headers
    body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
    return iter([body]), {**headers, "Content-Length": str(len(body))}


class HubDouble:
    """The Hub, but between `stop` and `start`. `tokens` maps valid tokens to their whoami replies."""

    def __init__(self) -> None:
        self.tokens: dict[str, dict[str, Any]] = {}
        self.requests: list[HubRequest] = []
        self.mode: Mode = "ok"
        self.retry_after: int | None = None
        self._routes: list[tuple[str, re.Pattern[str], Route]] = []
        self._connections: set[socket.socket] = set()
        self._stopped = threading.Event()
        self._port = 0  # the first time any
        self.start()
        self.route("GET", r"/api/whoami-v2", self._whoami)

    def start(self) -> None:
        """Is there, at the address that it had before."""
        self._stopped.clear()
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler())
        self._port = self._server.server_port
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="hub-double", daemon=True
        )
        self._thread.start()

    def wait(self, seconds: float) -> None:
        """Pauses a request, at most until the Hub goes away."""
        self._stopped.wait(seconds)

    @property
    def stopped(self) -> bool:
        """Whether it has gone away."""
        return self._stopped.is_set()

    @property
    def url(self) -> str:
        """What HF_ENDPOINT must be."""
        return f"http://127.0.0.1:{self._port}"

    def route(self, method: str, pattern: str, answer: Route) -> None:
        """Adds a route; `pattern` must match the whole path (without the query), and is `request.match`."""
        self._routes.append((method, re.compile(pattern), answer))

    def route_first(self, method: str, pattern: str, answer: Route) -> None:
        """Adds a route that is looked at before all others."""
        self._routes.insert(0, (method, re.compile(pattern), answer))

    def fail(self, outage: Outage) -> None:
        """Sets the mode, or goes away."""
        if outage == "gone":
            self.stop()
        else:
            self.mode = outage

    def close(self) -> None:
        """The same as `stop`."""
        self.stop()

    def stop(self) -> None:
        """Goes away: open connections break, and new ones are refused by the operating system."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            for connection in list(self._connections):
                with contextlib.suppress(OSError):  # it may have ended by itself
                    connection.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Gone for the length of the block."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def _whoami(self, request: HubRequest) -> HubReply:
        reply = self.tokens.get(request.token)
        return HubReply(200, reply) if reply else UNAUTHORIZED

    def _answer(self, request: HubRequest) -> HubReply:
        self.requests.append(request)
        retry = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        match self.mode:
            case "429":
                return HubReply(429, {"error": "We had to rate limit you."}, retry)
            case "500":
                return HubReply(500, {"error": "Internal Error - We're working hard to fix this"})
            case "garbage":
                return HubReply(
                    200, b"<html>Welcome to the hotel's network</html>", {"Content-Type": "text/html"}
                )
            case "hang":
                self._stopped.wait(HANG_LIMIT_S)
        for method, pattern, route in self._routes:
            if method == request.method and (match := pattern.fullmatch(request.path)):
                return route(HubRequest(request.method, request.path, request.headers, match))
        return HubReply(404, {"error": "Sorry, we can't find the page you are looking for."})

    def _handler(double) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the handler's
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                reply = double._answer(HubRequest(self.command, self.path.partition("?")[0], headers))
                pieces, headers = _pieces(reply)
                self.send_response(reply.status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                sent = 0
                if self.command != "HEAD":
                    for piece in pieces:
                        self.wfile.write(piece)
                        sent += len(piece)
                    # A body that ends early can only be told by the connection's end.
                    self.close_connection = sent != int(headers["Content-Length"])

            do_GET = do_HEAD = do_POST = _serve  # noqa: N815 - http.server's names

            def handle(self) -> None:
                double._connections.add(self.connection)
                with contextlib.suppress(ConnectionError):  # a client gives up when the Hub hangs
                    super().handle()
                double._connections.discard(self.connection)

            def log_message(self, *args: object) -> None:
                """Silent."""

        return Handler
