"""The service at a glance, from PostgreSQL alone: what an operator asks first."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection
from django.db.models import Count, F, Max, Q
from django.db.models.functions import Now

from generation.choices import ACTIVE, Status
from generation.models import Generation, Worker

FAILURES_WINDOW = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class WorkerState:
    """A GPU worker, alive or not; times in seconds by the database's clock."""

    name: str
    hostname: str
    device: str
    device_class: str
    version: str
    status: str
    alive: bool
    heartbeat_age_s: float
    memory_total_mb: int
    memory_free_mb: int
    models: list[str]
    jobs: list[str]


@dataclass(frozen=True, kw_only=True)
class QueueState:
    """What has not ended; None: nothing waits."""

    queued: int
    oldest_queued_s: float | None
    running: int


@dataclass(frozen=True, kw_only=True)
class Overview:
    """Queue, what runs, failures by code within the last hour, and workers."""

    queued: int
    oldest_queued_s: float | None
    running: int
    succeeded_last_hour: int
    failed_last_hour: dict[str, int]
    workers: list[WorkerState]


def database_now() -> datetime:
    """The database's clock, by which leases are noted."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement_timestamp()")
        now: datetime = cursor.fetchone()[0]
        return now


def worker_states() -> list[WorkerState]:
    """Every GPU worker that has a row, the live ones first."""
    jobs: dict[str, list[str]] = {}
    for pk, worker_id in Generation.objects.filter(status=Status.RUNNING).values_list("pk", "worker_id"):
        jobs.setdefault(str(worker_id), []).append(str(pk))
    states = [
        WorkerState(
            name=worker.name,
            hostname=worker.hostname,
            device=worker.device,
            device_class=worker.device_class,
            version=worker.version,
            status=worker.status,
            alive=worker.is_alive,
            heartbeat_age_s=round(worker.silence.total_seconds(), 1),
            memory_total_mb=worker.memory_total_mb,
            memory_free_mb=worker.memory_free_mb,
            models=worker.resident_models,
            jobs=jobs.get(str(worker.pk), []),
        )
        for worker in Worker.objects.with_silence()
    ]
    return sorted(states, key=lambda state: (not state.alive, state.name))


def queue_state() -> QueueState:
    """Asks anew, by the database's clock."""
    waits = Q(status=Status.QUEUED)
    found = Generation.objects.filter(status__in=ACTIVE).aggregate(
        queued=Count("pk", filter=waits),
        oldest=Max(Now() - F("created_at"), filter=waits),
        running=Count("pk", filter=Q(status=Status.RUNNING)),
    )
    oldest: timedelta | None = found["oldest"]
    return QueueState(
        queued=found["queued"],
        oldest_queued_s=None if oldest is None else round(oldest.total_seconds(), 1),
        running=found["running"],
    )


def service_overview() -> Overview:
    """Asks anew."""
    ended = Generation.objects.filter(finished_at__gt=Now() - FAILURES_WINDOW).order_by()
    failed = ended.filter(status=Status.FAILED).values("error_code").annotate(number=Count("pk"))
    return Overview(
        **vars(queue_state()),
        succeeded_last_hour=ended.filter(status=Status.SUCCEEDED).count(),
        failed_last_hour={row["error_code"]: row["number"] for row in failed},
        workers=worker_states(),
    )
