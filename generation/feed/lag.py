"""How long events are on their way."""

from datetime import datetime

from django.utils import timezone
from prometheus_client import Histogram

from generation.feed.messages import Event
from imagegen_project.common.counters import PROCESS_REGISTRY

EVENT_LAG = Histogram(
    "imagegen_event_lag_seconds",
    "From an event's making, on its maker's clock, to its arrival in this process.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
    registry=PROCESS_REGISTRY,
)


def event_measure(event: Event) -> None:
    """Notes how long an event was on its way."""
    made = datetime.fromisoformat(event["at"])
    EVENT_LAG.observe(max(0.0, (timezone.now() - made).total_seconds()))
