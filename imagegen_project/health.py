"""`/health/ready`: whether this process can serve. That it lives, at `/health`, the gate says by itself."""

import logging
from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_safe

from generation.models import Worker
from generation.pictures.availability import StorageState, storage_state
from imagegen_project.common.redis import redis_client

logger = logging.getLogger(__name__)


def _redis() -> None:
    redis_client().ping()


def _check(probe: Callable[[], Any]) -> str:
    """Whether a server answers; whatever else than an answer comes, a probe is told so, and the log why."""
    try:
        probe()
    except Exception as error:  # noqa: BLE001 - drivers raise what they like while a server goes away
        logger.warning("not ready", extra={"reason": f"{type(error).__name__}: {error}"})
        return "unreachable"
    return "ok"


@require_safe
def ready(request: HttpRequest) -> JsonResponse:
    """Readiness: 200 when PostgreSQL and Redis answer, else 503; `?worker=1` also wants a live GPU worker.

    A storage that takes no pictures makes it "degraded" and no more: what is queued waits for it, and those who are to
    make room by deleting pictures must be let in.
    """
    workers = 0

    def database() -> None:
        nonlocal workers
        workers = Worker.objects.live().count()

    checks = {"database": _check(database), "redis": _check(_redis)}
    needs_worker = request.GET.get("worker") == "1"
    healthy = set(checks.values()) == {"ok"} and (workers > 0 or not needs_worker)
    storage = storage_state()
    status = "not_ready" if not healthy else "ready" if storage is StorageState.OK else "degraded"
    body = {"status": status, "checks": checks | {"storage": storage.value}, "workers": workers}
    return JsonResponse(body, status=200 if healthy else 503)
