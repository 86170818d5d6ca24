"""The numbers an operator looks at first, all from PostgreSQL: what waits, ends, fails, and is lost.

Each number leads to the list behind it.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from django.core.exceptions import PermissionDenied
from django.db import connection
from django.db.models import Count, Q, Sum
from django.http import HttpRequest, JsonResponse
from django.urls import reverse
from django.utils import timezone

from generation.choices import ACTIVE, CommandStatus, DeliveryStatus, ErrorCode, Status
from generation.models import GeneratedImage, Generation, WebhookDelivery, Worker, WorkerCommand
from generation.queue.overview import queue_state
from imagegen_project.common.disks import folder_existing, folders_kept
from imagegen_project.common.staff import duration
from loras.choices import LoraState
from loras.models import Lora
from models_registry.choices import DiskState
from models_registry.models import Checkpoint

PERMISSION: Final = "generation.view_generation"
# How far back, and how long one point of a plot is.
WINDOWS: Final = {
    "hour": (timedelta(hours=1), timedelta(minutes=1)),
    "day": (timedelta(days=1), timedelta(minutes=20)),
    "week": (timedelta(days=7), timedelta(hours=3)),
}
LONG_WAIT: Final = timedelta(minutes=10)
DISK_FULL_PERCENT: Final = 90
DEATHS_SHOWN: Final = 5
_BUCKETS: Final = """
    SELECT extract(epoch FROM date_bin(%(step)s::interval, finished_at, %(since)s)),
        count(*) FILTER (WHERE status = 'succeeded'), count(*) FILTER (WHERE status = 'failed'),
        percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE status = 'succeeded'),
        percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE status = 'succeeded')
    FROM generation_generation WHERE finished_at >= %(since)s GROUP BY 1 ORDER BY 1
"""
_LATENCY: Final = """
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms),
        percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms)
    FROM generation_generation WHERE finished_at >= %(since)s AND status = 'succeeded'
"""


@dataclass(frozen=True)
class Tile:
    """One number."""

    name: str
    label: str
    value: float | None
    words: str
    link: str
    bad: bool = False


def dashboard_view(request: HttpRequest) -> JsonResponse:
    """The numbers of a window (`?window=`), as JSON for the page."""
    if not request.user.has_perm(PERMISSION):
        raise PermissionDenied
    name = request.GET.get("window", "hour")
    answer = JsonResponse(dashboard_numbers(name if name in WINDOWS else "hour"))
    answer.headers["Cache-Control"] = "no-store"
    return answer


def dashboard_numbers(window: str) -> dict[str, Any]:
    """All of them."""
    length, step = WINDOWS[window]
    now = timezone.now()
    # Whole steps, so that a point of a plot does not change while it is looked at.
    since = now - length - timedelta(seconds=now.timestamp() % step.total_seconds())
    workers, disks = list(Worker.objects.with_silence()), _disks()
    return {
        "at": now.isoformat(),
        "window": window,
        "tiles": [vars(tile) for tile in _tiles(since, workers)],
        "series": _series(since, step, now),
        "failures": _failures(since),
        "workers": _workers(workers),
        "deaths": _deaths(since),
        "disk": disks,
        "troubles": list(_troubles(since, workers, disks)),
    }


def _list(model: str, **query: Any) -> str:
    """The address of a list in the admin."""
    address = reverse(f"admin:{model}_changelist")
    return f"{address}?{urlencode(query)}" if query else address


def _jobs(**query: Any) -> str:
    return _list("generation_generation", **query)


def _tiles(since: datetime, workers: list[Worker]) -> Iterator[Tile]:
    active = queue_state()
    ended = Generation.objects.filter(finished_at__gte=since).values_list("status").annotate(n=Count("pk"))
    numbers: dict[str, int] = dict(ended)
    waited = active.oldest_queued_s or 0.0
    queued = {"status__exact": Status.QUEUED}
    yield Tile("queued", "waiting", active.queued, str(active.queued), _jobs(**queued))
    yield Tile(
        *("oldest", "longest wait", waited, duration(waited) if active.queued else "none"),
        # By id, which is by age: the first column, or the second one where rows can be chosen.
        _jobs(**queued, o="0.1"),
        bad=waited > LONG_WAIT.total_seconds(),
    )
    yield Tile("running", "running", active.running, str(active.running), _jobs(status__exact=Status.RUNNING))
    for status in (Status.SUCCEEDED, Status.FAILED, Status.CANCELED):
        number = numbers.get(status, 0)
        link = _jobs(status__exact=status, finished_at__gte=since.isoformat())
        yield Tile(status, status, number, str(number), link, bad=status == Status.FAILED and number > 0)
    with connection.cursor() as cursor:
        cursor.execute(_LATENCY, {"since": since})
        for name, label, value in zip(
            ("p50", "p95"), ("median time", "95 % within"), cursor.fetchone(), strict=True
        ):
            words = "none" if value is None else duration(value / 1000)
            seconds = None if value is None else round(value / 1000, 3)
            link = _jobs(status__exact=Status.SUCCEEDED, finished_at__gte=since.isoformat())
            yield Tile(name, label, seconds, words, link)
    heard = sum(worker.is_alive for worker in workers)
    yield Tile("workers", "GPU workers", heard, str(heard), _list("generation_worker"), bad=not heard)
    stored = GeneratedImage.objects.aggregate(n=Count("pk"), size=Sum("size_bytes"))
    size = f"{(stored['size'] or 0) / 1e9:.2f} GB in {stored['n']} pictures"
    yield Tile("pictures", size, stored["n"], f"{stored['n']:,}", _list("generation_generatedimage"))


def _series(since: datetime, step: timedelta, now: datetime) -> dict[str, list[Any]]:
    """One point per step, those without an end too: epoch seconds, ends, and seconds of latency."""
    with connection.cursor() as cursor:
        cursor.execute(_BUCKETS, {"since": since, "step": f"{step.total_seconds()} seconds"})
        found = {round(float(row[0])): row[1:] for row in cursor.fetchall()}
    begin, width = round(since.timestamp()), round(step.total_seconds())
    series: dict[str, list[Any]] = {"at": [], "succeeded": [], "failed": [], "p50": [], "p95": []}
    for at in range(begin, round(now.timestamp()) + 1, width):
        succeeded, failed, p50, p95 = found.get(at, (0, 0, None, None))
        series["at"].append(at)
        series["succeeded"].append(succeeded)
        series["failed"].append(failed)
        series["p50"].append(None if p50 is None else round(p50 / 1000, 3))
        series["p95"].append(None if p95 is None else round(p95 / 1000, 3))
    return series


def _failures(since: datetime) -> list[dict[str, Any]]:
    rows = Generation.objects.filter(status=Status.FAILED, finished_at__gte=since).values_list("error_code")
    return [
        {
            "code": code,
            "number": number,
            "link": _jobs(
                status__exact=Status.FAILED, error_code__exact=code, finished_at__gte=since.isoformat()
            ),
        }
        for code, number in rows.annotate(n=Count("pk")).order_by("-n")
    ]


def _workers(workers: list[Worker]) -> list[dict[str, Any]]:
    running = Generation.objects.filter(status=Status.RUNNING).values_list(
        "worker_id", "pk", "step", "total_steps"
    )
    jobs: dict[Any, list[dict[str, Any]]] = {}
    for worker_id, key, step, total in running:
        link = reverse("admin:generation_generation_change", args=[key])
        jobs.setdefault(worker_id, []).append({"words": f"…{str(key)[-8:]} {step}/{total}", "link": link})
    return [
        {
            "name": worker.name,
            "link": reverse("admin:generation_worker_change", args=[worker.pk]),
            "state": worker.status if worker.is_alive else "silent",
            "heard": duration(worker.silence),
            "device": worker.device,
            "used_mb": worker.memory_total_mb - worker.memory_free_mb,
            "total_mb": worker.memory_total_mb,
            "models": worker.resident_models,
            "jobs": jobs.get(worker.pk, []),
        }
        for worker in workers
    ]


def _deaths(since: datetime) -> list[dict[str, Any]]:
    """The last workers that were lost with a job in hand which has ended since then, or goes on."""
    lost = ErrorCode.WORKER_LOST.value
    # Both have an index; the log itself has none.
    recent = Q(finished_at__gte=since) | Q(status__in=ACTIVE)
    rows = Generation.objects.filter(recent, attempt_log__contains=[{"reason": lost}]).order_by()
    found = [
        (str(entry.get("at")), entry.get("worker") or "unknown", key)
        for key, log in rows.values_list("pk", "attempt_log")
        for entry in log
        if entry.get("reason") == lost
    ]
    return [
        {
            "worker": worker,
            "at": at[:19].replace("T", " "),
            "link": reverse("admin:generation_generation_change", args=[key]),
        }
        for at, worker, key in sorted(found, reverse=True)[:DEATHS_SHOWN]
    ]


def _disks() -> list[dict[str, Any]]:
    """Of this web process's host."""
    usages = {what: shutil.disk_usage(folder_existing(place)) for what, place in folders_kept().items()}
    return [
        {"name": what, "used_gb": round(usage.used / 1e9, 1), "total_gb": round(usage.total / 1e9, 1)}
        for what, usage in usages.items()
    ]


def _trouble(what: str, remedy: str, link: str) -> dict[str, str]:
    return {"what": what, "remedy": remedy, "link": link}


def _troubles(
    since: datetime, workers: list[Worker], disks: list[dict[str, Any]]
) -> Iterator[dict[str, str]]:
    """What is broken, and what to do."""
    if not any(worker.is_alive for worker in workers):
        yield _trouble(
            "No GPU worker is alive.",
            "Start one: manage.py gpu_worker. Jobs wait for it and are not lost.",
            _list("generation_worker"),
        )
    for checkpoint in Checkpoint.objects.filter(enabled=True).exclude(error_code=""):
        again = "Fetch it again" if checkpoint.state == DiskState.ABSENT else "Fetch it anew, or disable it"
        yield _trouble(
            f"The model {checkpoint.pk}: {checkpoint.error_detail}",
            f"{again}, by the button on its page.",
            reverse("admin:models_registry_checkpoint_change", args=[checkpoint.pk]),
        )
    if broken := Lora.objects.filter(state=LoraState.BROKEN).count():
        yield _trouble(
            f"{broken} LoRA cannot be used.",
            "Each says why; upload it again, or delete it.",
            _list("loras_lora", state__exact=LoraState.BROKEN),
        )
    if unsent := WebhookDelivery.objects.filter(status=DeliveryStatus.FAILED, finished_at__gte=since).count():
        yield _trouble(
            f"{unsent} webhooks did not arrive.",
            "Look at what their receivers answered; then try them again.",
            _list("generation_webhookdelivery", status__exact=DeliveryStatus.FAILED),
        )
    failed = WorkerCommand.objects.filter(status=CommandStatus.FAILED, finished_at__gte=since).count()
    if failed:
        yield _trouble(
            f"{failed} orders to GPU workers failed.",
            "Each says why.",
            _list("generation_workercommand", status__exact=CommandStatus.FAILED),
        )
    for disk in disks:
        if disk["total_gb"] and 100 * disk["used_gb"] / disk["total_gb"] >= DISK_FULL_PERCENT:
            yield _trouble(
                f"The disk of {disk['name']} is nearly full.",
                "Delete old generations (manage.py prune_generations) or models that nobody uses.",
                _list("generation_generatedimage"),
            )
