"""`/health` (the process lives) and `/health/ready` (it can serve)."""

from collections.abc import Callable
from typing import Any

from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_safe
from django_redis import get_redis_connection
from psycopg_pool import PoolTimeout
from redis.exceptions import RedisError

from generation.models import Worker
from imagegen_project import __version__


@require_safe
def live(request: HttpRequest) -> JsonResponse:
    """Liveness: touches nothing but this process."""
    return JsonResponse({"status": "ok", "version": __version__})


def _database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _redis() -> None:
    get_redis_connection("default").ping()


def _check(probe: Callable[[], Any]) -> str:
    try:
        probe()
    except (DatabaseError, PoolTimeout, RedisError, OSError):
        return "unreachable"
    return "ok"


@require_safe
def ready(request: HttpRequest) -> JsonResponse:
    """Readiness: 200 when PostgreSQL and Redis answer, else 503; `?worker=1` also wants a live GPU worker."""
    checks = {"database": _check(_database), "redis": _check(_redis)}
    workers = Worker.objects.live().count() if checks["database"] == "ok" else 0
    needs_worker = request.GET.get("worker") == "1"
    healthy = set(checks.values()) == {"ok"} and (workers > 0 or not needs_worker)
    body = {"status": "ready" if healthy else "not_ready", "checks": checks, "workers": workers}
    return JsonResponse(body, status=200 if healthy else 503)
