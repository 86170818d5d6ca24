"""The service at a glance, from PostgreSQL alone: what an operator asks first."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection
from django.db.models import Count, Min

from generation.choices import ACTIVE, Status
from generation.models import Generation, Worker
from generation.models.workers import WORKER_ALIVE

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
class Overview:
    """Queue, what runs, failures by code within the last hour, and workers."""

    queued: int
    oldest_queued_s: float | None
    running: int
    succeeded_last_hour: int
    failed_last_hour: dict[str, int]
    workers: list[WorkerState]


def database_now() -> datetime:
    """The database's clock, by which heartbeats and leases are noted."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement_timestamp()")
        now: datetime = cursor.fetchone()[0]
        return now


def worker_states() -> list[WorkerState]:
    """Every GPU worker that has a row, the live ones first."""
    now = database_now()
    jobs: dict[str, list[str]] = {}
    for pk, worker_id in Generation.objects.filter(status=Status.RUNNING).values_list("pk", "worker_id"):
        jobs.setdefault(str(worker_id), []).append(str(pk))
    states = []
    for worker in Worker.objects.all():
        silent = now - worker.heartbeat_at
        states.append(
            WorkerState(
                name=worker.name,
                hostname=worker.hostname,
                device=worker.device,
                device_class=worker.device_class,
                version=worker.version,
                status=worker.status,
                alive=silent <= WORKER_ALIVE,
                heartbeat_age_s=round(max(0.0, silent.total_seconds()), 1),
                memory_total_mb=worker.memory_total_mb,
                memory_free_mb=worker.memory_free_mb,
                models=worker.resident_models,
                jobs=jobs.get(str(worker.pk), []),
            )
        )
    return sorted(states, key=lambda state: (not state.alive, state.name))


def service_overview() -> Overview:
    """Asks anew."""
    now = database_now()
    active = {
        row["status"]: row
        for row in Generation.objects.filter(status__in=ACTIVE)
        .order_by()
        .values("status")
        .annotate(number=Count("pk"), since=Min("created_at"))
    }
    ended = Generation.objects.filter(finished_at__gt=now - FAILURES_WINDOW).order_by()
    failed = ended.filter(status=Status.FAILED).values("error_code").annotate(number=Count("pk"))
    queued = active.get(Status.QUEUED)
    return Overview(
        queued=queued["number"] if queued else 0,
        oldest_queued_s=round((now - queued["since"]).total_seconds(), 1) if queued else None,
        running=active[Status.RUNNING]["number"] if Status.RUNNING in active else 0,
        succeeded_last_hour=ended.filter(status=Status.SUCCEEDED).count(),
        failed_last_hour={row["error_code"]: row["number"] for row in failed},
        workers=worker_states(),
    )
