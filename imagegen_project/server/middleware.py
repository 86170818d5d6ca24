"""Gives every request an id and writes one log line for it."""

import logging
import re
import time
from collections.abc import Callable, MutableMapping
from typing import Any, cast

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse
from django.utils.functional import SimpleLazyObject
from uuid_utils.compat import uuid7

from imagegen_project.auth.failures import address_of
from imagegen_project.common.context import address, base_url, request_id, username
from imagegen_project.common.http import base_url_of
from imagegen_project.common.tracing import Trace, request_trace

logger = logging.getLogger("imagegen.request")

# Under which the ASGI scope carries the name of the route that answered, for the metrics.
ROUTE_KEY = "imagegen.route"
PROBE_PATHS = re.compile(r"/health/?|/health/ready/?|/metrics/?")
REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,64}")


class ProbeHostMiddleware:
    """Lets probes and scrapers ask by address, which is none of ALLOWED_HOSTS: those answers depend on no host."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Serves the request, a probe's under this server's first name."""
        names = [name.lstrip(".") for name in settings.ALLOWED_HOSTS if name != "*"]
        if names and PROBE_PATHS.fullmatch(request.path):
            request.META["HTTP_HOST"] = names[0]
        return self.get_response(request)


def _describe(trace: Trace, request: HttpRequest, response: HttpResponse) -> None:
    """Names a request's span by its route, whose number is small, and says how it was answered."""
    route = request.resolver_match.view_name if request.resolver_match else "no route"
    error = f"status {response.status_code}" if response.status_code >= 500 else ""
    trace.note(name=f"{request.method} {route}", error=error, status=response.status_code)


class RequestContextMiddleware:
    """Takes `X-Request-Id` (or makes one), puts it into logs, errors and the answer, and logs the request."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Serves the request; its path is logged without the query, which could carry a ticket."""
        given = request.headers.get("X-Request-Id", "")
        identifier = given if REQUEST_ID_PATTERN.fullmatch(given) else uuid7().hex
        request_token, user_token = request_id.set(identifier), username.set("")
        base_token, address_token = base_url.set(base_url_of(request)), address.set(address_of(request))
        started = time.monotonic()
        try:
            with request_trace(
                request.method or "",
                parent=request.headers.get("traceparent", ""),
                method=request.method,
                path=request.path,
                request_id=identifier,
            ) as trace:
                response = self.get_response(request)
                _describe(trace, request, response)
            response.headers["X-Request-Id"] = identifier
            if isinstance(request, ASGIRequest) and request.resolver_match:
                scope = cast(MutableMapping[str, Any], request.scope)
                scope[ROUTE_KEY] = request.resolver_match.view_name
            user = getattr(request, "user", None)
            if isinstance(user, SimpleLazyObject):
                # Only where a view has asked for it: a probe's line in the log needs no database.
                user = getattr(request, "_cached_user", None)
            logger.info(
                "request",
                extra={
                    "method": request.method,
                    "path": request.path,
                    "status": response.status_code,
                    "user": username.get() or (user.get_username() if user and user.is_authenticated else ""),
                    "duration_ms": round((time.monotonic() - started) * 1000, 1),
                },
            )
            return response
        finally:
            request_id.reset(request_token)
            username.reset(user_token)
            base_url.reset(base_token)
            address.reset(address_token)
