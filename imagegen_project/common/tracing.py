"""Traces for OpenTelemetry, where OTEL_EXPORTER_OTLP_ENDPOINT names a collector; elsewhere nothing of it is imported.

One trace goes from a request through the queue to each step: the request's own place in it (`traceparent`, W3C) is kept
with the generation, whose worker goes on from there.
"""

import contextlib
import functools
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.conf import settings

from imagegen_project.common.context import traceparent

logger = logging.getLogger(__name__)


class Trace:
    """A span, and what is told of its parts once they are over; without a collector nothing at all."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        """Its place in the trace, for whoever goes on from it; "" where nothing is traced."""
        return _tracing().place(self._span) if self._span else ""

    def part(self, name: str, *, since: float, until: float, **attributes: Any) -> None:
        """Something within it, from one time of `time.time` to another."""
        if self._span:
            part = _tracing().begin(name, self.traceparent, since, attributes)
            part.end(_nanoseconds(until))

    def note(self, *, name: str = "", error: str = "", **attributes: Any) -> None:
        """What became known of it: a better name, why it failed, further attributes."""
        if not self._span:
            return
        if name:
            self._span.update_name(name)
        self._span.set_attributes(_named(attributes))
        if error:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, error))

    def end(self, *, until: datetime | None = None) -> None:
        """It is over."""
        if self._span:
            self._span.end(None if until is None else _nanoseconds(until.timestamp()))


def trace_begin(name: str, *, parent: str = "", since: datetime | None = None, **attributes: Any) -> Trace:
    """A span that goes on from a place in a trace, "" for one of its own."""
    if not settings.OTEL_ENDPOINT:
        return Trace()
    return Trace(_tracing().begin(name, parent, since.timestamp() if since else None, attributes))


@contextlib.contextmanager
def request_trace(name: str, *, parent: str, **attributes: Any) -> Iterator[Trace]:
    """A request's span: what is stored meanwhile goes on from it."""
    trace = trace_begin(name, parent=parent, **attributes)
    token = traceparent.set(trace.traceparent)
    try:
        yield trace
    finally:
        traceparent.reset(token)
        trace.end()


def traces_flush() -> None:
    """Sends what has not been sent."""
    if settings.OTEL_ENDPOINT:
        _tracing().provider.force_flush()


class _Tracing:
    """The SDK, set up once for a process; it sends from a thread of its own, and drops what no collector takes."""

    def __init__(self, endpoint: str) -> None:
        # A third of a second, and a package of its own, which only those need who trace.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.name": f"imagegen-{settings.PROCESS_NAME}"})
        self.provider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self.provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self.provider.get_tracer("imagegen")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, name: str, parent: str, since: float | None, attributes: dict[str, Any]) -> Any:
        context = self._propagator.extract({"traceparent": parent}) if parent else None
        start = None if since is None else _nanoseconds(since)
        return self._tracer.start_span(name, context=context, start_time=start, attributes=_named(attributes))

    def place(self, span: Any) -> str:
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, context=set_span_in_context(span))
        return carrier.get("traceparent", "")


@functools.cache
def _tracing() -> _Tracing:
    return _Tracing(settings.OTEL_ENDPOINT)


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes under this service's name; what is not known is left out."""
    return {f"imagegen.{name}": value for name, value in attributes.items() if value not in (None, "")}


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
