"""`/metrics` for Prometheus, and what a web process measures of its own requests and sockets."""

import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.http import HttpResponse
from django.utils.crypto import constant_time_compare
from drf_spectacular.utils import extend_schema
from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.permissions import BasePermission
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from generation.metrics.collector import ServiceCollector
from imagegen_project.auth.authentication import BearerAuthentication
from imagegen_project.common.asgi import Application, Message, Receive, Scope, Send
from imagegen_project.common.counters import PROCESS_REGISTRY
from imagegen_project.server.middleware import ROUTE_KEY
from imagegen_project.telemetry.shared_port import SharedPortCollector

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# Nginx's number for a client that hung up before its answer.
_HUNG_UP = 499
# The identity of a scraper with METRICS_TOKEN, as `request.auth` shows it.
_SCRAPER = "metrics token"

REQUEST_SECONDS = Histogram(
    "imagegen_http_request_seconds",
    "From a request's arrival to the end of its answer, waiting for a picture included.",
    ("method", "route", "status"),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
    registry=PROCESS_REGISTRY,
)
REQUESTS_OPEN = Gauge(
    "imagegen_http_requests_open",
    "Requests without an answer yet.",
    registry=PROCESS_REGISTRY,
    multiprocess_mode="livesum",
)
SOCKETS_OPEN = Gauge(
    "imagegen_sockets_open",
    "WebSockets that are open.",
    registry=PROCESS_REGISTRY,
    multiprocess_mode="livesum",
)
SOCKETS_CLOSED = Counter(
    "imagegen_sockets_closed",
    "WebSockets that ended: refused, or closed with a code by this side.",
    ("code",),
    registry=PROCESS_REGISTRY,
)
ProcessCollector(registry=PROCESS_REGISTRY)
GCCollector(registry=PROCESS_REGISTRY)


class Metered:
    """ASGI middleware that measures every request and socket, what the gate refuses included."""

    def __init__(self, application: Application) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or socket."""
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        else:
            await self._socket(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, began = _HUNG_UP, time.monotonic()

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with REQUESTS_OPEN.track_inprogress():
            try:
                await self.application(scope, receive, send_noting)
            finally:
                method = scope["method"] if scope["method"] in _METHODS else "other"
                labels = (method, scope.get(ROUTE_KEY, ""), str(status))
                REQUEST_SECONDS.labels(*labels).observe(time.monotonic() - began)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        code = "client"

        async def send_noting(message: Message) -> None:
            nonlocal code
            if message["type"] == "websocket.close":
                code = str(message.get("code") or 1000)
            await send(message)

        with SOCKETS_OPEN.track_inprogress():
            try:
                await self.application(scope, receive, send_noting)
            finally:
                SOCKETS_CLOSED.labels(code).inc()


class _AnyFormat(BaseContentNegotiation):
    """A scraper's `Accept` chooses between Prometheus's formats, not between DRF's renderers."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        """The first one: nothing is read."""
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        """JSON, for refusals."""
        return renderers[0], renderers[0].media_type


class MetricsTokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer <METRICS_TOKEN>`: may read metrics, and nothing else."""

    def authenticate(self, request: Request) -> tuple[AnonymousUser, str] | None:
        """Nobody in particular, or None where the token is another one."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        expected = settings.METRICS_TOKEN
        if not expected or scheme.lower() != "bearer" or not constant_time_compare(token.strip(), expected):
            return None
        return AnonymousUser(), _SCRAPER

    def authenticate_header(self, request: Request) -> str:
        """The challenge that goes with a 401."""
        return 'Bearer realm="imagegen metrics"'


class MayReadMetrics(BasePermission):
    """Staff, and who brings METRICS_TOKEN: the numbers tell what the service is used for."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Whether the caller may."""
        return request.auth == _SCRAPER or request.user.is_staff


class MetricsView(APIView):
    """The metrics of the service, and of the web process that answers, or of all that share its port."""

    authentication_classes = (MetricsTokenAuthentication, BearerAuthentication, SessionAuthentication)
    permission_classes = (MayReadMetrics,)
    renderer_classes = (JSONRenderer,)
    content_negotiation_class = _AnyFormat

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        """In the text format that the scraper prefers."""
        registry = CollectorRegistry()
        registry.register(ServiceCollector())
        of_port = (
            SharedPortCollector(Path(settings.METRICS_DIR)) if settings.METRICS_DIR else PROCESS_REGISTRY
        )
        registry.register(of_port)
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return HttpResponse(encode(registry), content_type=content_type)
