"""What PostgreSQL and Redis know of the service, for Prometheus: the same from whichever web process is asked."""

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import DatabaseError
from django.db.models import Case, Count, Exists, Min, OuterRef, Value, When
from django.db.models.functions import Now
from django.utils import timezone
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from psycopg_pool import PoolTimeout
from redis.exceptions import RedisError

from generation.choices import ACTIVE, DeliveryStatus, Status
from generation.metrics.counters import SHARED
from generation.models import Generation, WebhookDelivery, Worker
from imagegen_project.auth.models import HubAccount
from imagegen_project.common.counters import shared_families
from imagegen_project.common.queues import entries_waiting
from models_registry.models import Checkpoint

_MIB = 1024 * 1024
_WEBHOOK_WINDOW = timedelta(hours=1)
_TIERS = ("resident", "warm", "loading")


class ServiceCollector(Collector):
    """Queue, jobs, workers, models and webhooks; what cannot be read is left out, and `imagegen_up` says so."""

    def collect(self) -> Iterator[Metric]:
        """Reads everything anew."""
        up = GaugeMetricFamily("imagegen_up", "Whether a server answered this scrape.", labels=["server"])
        parts: tuple[tuple[str, tuple[Callable[[], Iterable[Metric]], ...]], ...] = (
            ("postgresql", (_jobs, _workers, _webhooks, _models)),
            ("redis", (_queues, lambda: shared_families(SHARED))),
        )
        for server, readers in parts:
            answered = 1
            for reader in readers:
                try:
                    yield from list(reader())
                except (DatabaseError, PoolTimeout, RedisError, OSError):
                    answered = 0
                    break
            up.add_metric([server], answered)
        yield up


def _jobs() -> Iterator[Metric]:
    """Generations that have not ended: few, and found by a partial index."""
    hub = HubAccount.objects.filter(user=OuterRef("owner"))
    by_class = Case(
        When(owner__is_staff=True, then=Value("staff")),
        When(Exists(hub), then=Value("hub")),
        default=Value("local"),
    )
    rows = (
        Generation.objects.filter(status__in=ACTIVE)
        .order_by()
        .annotate(user_class=by_class)
        .values("status", "checkpoint_id", "user_class")
        .annotate(number=Count("pk"), since=Min("created_at"))
    )
    jobs = GaugeMetricFamily(
        "imagegen_jobs", "Generations that have not ended.", labels=["status", "model", "user_class"]
    )
    found = list(rows)
    for row in found:
        jobs.add_metric([row["status"], row["checkpoint_id"], row["user_class"]], row["number"])
    queued = [row for row in found if row["status"] == Status.QUEUED]
    yield jobs
    yield GaugeMetricFamily(
        "imagegen_queue_depth", "Generations that wait.", value=sum(row["number"] for row in queued)
    )
    yield GaugeMetricFamily(
        "imagegen_queue_oldest_seconds",
        "Age of the generation that has waited longest; 0: none waits.",
        value=_age([row["since"] for row in queued]),
    )


def _age(moments: list[Any]) -> float:
    return max(0.0, (timezone.now() - min(moments)).total_seconds()) if moments else 0.0


def _workers() -> Iterator[Metric]:
    alive = GaugeMetricFamily(
        "imagegen_worker", "1 for each live GPU worker.", labels=["worker", "device", "status"]
    )
    total = GaugeMetricFamily("imagegen_worker_memory_bytes", "Of its device.", labels=["worker"])
    free = GaugeMetricFamily("imagegen_worker_memory_free_bytes", "Of its device.", labels=["worker"])
    leaked = GaugeMetricFamily(
        "imagegen_worker_memory_leaked_bytes", "Beyond what its models account for.", labels=["worker"]
    )
    models = GaugeMetricFamily("imagegen_cache_models", "Models it holds.", labels=["worker", "tier"])
    sizes = GaugeMetricFamily("imagegen_cache_bytes", "Weights it holds.", labels=["worker", "tier"])
    for worker in Worker.objects.live():
        alive.add_metric([worker.name, worker.device, worker.status], 1)
        total.add_metric([worker.name], worker.memory_total_mb * _MIB)
        free.add_metric([worker.name], worker.memory_free_mb * _MIB)
        leaked.add_metric([worker.name], worker.leaked_mb * _MIB)
        for tier in _TIERS:
            held = [model["bytes"] for model in worker.cached_models if model["tier"] == tier]
            models.add_metric([worker.name, tier], len(held))
            sizes.add_metric([worker.name, tier], sum(held))
    yield from (alive, total, free, leaked, models, sizes)


def _webhooks() -> Iterator[Metric]:
    pending = WebhookDelivery.objects.filter(status=DeliveryStatus.PENDING).aggregate(
        number=Count("pk"), since=Min("created_at")
    )
    yield GaugeMetricFamily(
        "imagegen_webhooks_pending", "Webhooks that wait for delivery.", value=pending["number"]
    )
    yield GaugeMetricFamily(
        "imagegen_webhooks_oldest_seconds",
        "Age of the oldest of them; 0: none waits.",
        value=_age([pending["since"]] if pending["since"] else []),
    )
    recent = (
        WebhookDelivery.objects.filter(finished_at__gt=Now() - _WEBHOOK_WINDOW)
        .order_by()
        .values("status")
        .annotate(number=Count("pk"))
    )
    ended = GaugeMetricFamily(
        "imagegen_webhooks_last_hour", "Webhooks that ended within the last hour.", labels=["status"]
    )
    for row in recent:
        ended.add_metric([row["status"]], row["number"])
    yield ended


def _models() -> Iterator[Metric]:
    states = GaugeMetricFamily("imagegen_models", "Models by the state of their files.", labels=["state"])
    for row in Checkpoint.objects.order_by().values("state").annotate(number=Count("pk")):
        states.add_metric([row["state"]], row["number"])
    yield states


def _queues() -> Iterator[Metric]:
    entries = GaugeMetricFamily("imagegen_rq_entries", "Wake-ups that wait in RQ.", labels=["queue"])
    for queue in settings.RQ_QUEUES:
        entries.add_metric([queue], entries_waiting(queue))
    yield entries
