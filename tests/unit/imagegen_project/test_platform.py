"""What the whole project shares: schema, health, logs, pages of the admin, the gate before Django."""

import json
import logging
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import OperationalError, ProgrammingError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pythonjsonlogger.json import JsonFormatter
from rest_framework.test import APIClient

from generation.attempts import generation_claim
from generation.choices import CommandKind, Status
from generation.models import Generation, Worker, WorkerCommand
from imagegen_project.common.context import request_id
from imagegen_project.telemetry.logs import ContextFilter, logging_config
from tests.support.endings import succeed
from tests.support.factories import create_generation


def finished(owner: User, count: int) -> None:
    """Generations with pictures."""
    worker, _ = Worker.objects.get_or_create(
        name="w", defaults={"hostname": "h", "pid": 1, "heartbeat_at": timezone.now()}
    )
    for _ in range(count):
        create_generation(owner=owner)
        claimed = generation_claim(worker=worker)
        assert claimed is not None
        succeed(claimed)
        WorkerCommand.objects.create(worker=worker, kind=CommandKind.DRAIN)


@pytest.fixture
def admin(db: None) -> User:
    """A superuser."""
    return User.objects.create_superuser("root")


@pytest.fixture
def pages(admin: User) -> Client:
    """The superuser's browser."""
    client = Client()
    client.force_login(admin)
    return client


def test_the_schema_is_valid_and_without_warnings() -> None:
    """As strict as drf-spectacular can be."""
    output = StringIO()
    call_command("spectacular", "--validate", "--fail-on-warn", stdout=output)
    assert "/api/v1/generations/{generation_id}/cancel:" in output.getvalue()


@pytest.mark.parametrize("page", ["generation", "generatedimage", "worker", "workercommand"], ids=str)
def test_an_admin_list_costs_the_same_however_long_it_is(pages: Client, admin: User, page: str) -> None:
    """No query a row."""
    counts = []
    for rows in (1, 5):
        finished(admin, rows)
        with CaptureQueriesContext(connection) as queries:
            assert pages.get(f"/admin/generation/{page}/").status_code == 200
        counts.append(len(queries))
    assert counts[0] == counts[1]


def test_admin_shows_searches_cancels_and_deletes(pages: Client, admin: User) -> None:
    """With thumbnails; rows are not edited by hand."""
    finished(admin, 1)
    generation = Generation.objects.get()
    listing = pages.get("/admin/generation/generation/", {"q": "a"}).content.decode()
    assert f"/api/v1/generations/{generation.id}/images/0" in listing
    assert pages.get(f"/admin/generation/generation/{generation.id}/change/").status_code == 200
    assert pages.get("/admin/generation/generation/add/").status_code == 403
    queued = create_generation(owner=admin)
    pages.post(
        "/admin/generation/generation/", {"action": "cancel_selected", "_selected_action": [str(queued.id)]}
    )
    queued.refresh_from_db()
    assert queued.status == Status.CANCELED
    pages.post(f"/admin/generation/generation/{generation.id}/delete/", {"post": "yes"})
    assert not Generation.objects.filter(pk=generation.pk).exists()


@pytest.mark.parametrize(
    "page",
    [
        *("models_registry/checkpoint", "accounts/localtoken", "accounts/hubaccount", "auth/user"),
        *("admin/logentry", "generation/workercommand", "generation/webhookdelivery", "loras/lora"),
    ],
)
def test_the_other_admin_pages_open(pages: Client, page: str) -> None:
    """Lists and, for checkpoints, the form."""
    assert pages.get(f"/admin/{page}/").status_code == 200
    assert pages.get("/admin/models_registry/checkpoint/builtin/change/").status_code == 200


def test_a_session_may_use_the_api_from_pages(pages: Client) -> None:
    """Staff look at pictures in the admin with their session."""
    assert pages.get("/api/v1/generations").status_code == 200


@pytest.mark.django_db
def test_health_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """503 with the part that does not answer, whatever it raises."""
    client = APIClient()
    assert client.get("/health/ready").json()["status"] == "ready"
    lonely = client.get("/health/ready?worker=1")
    assert (lonely.status_code, lonely.json()["workers"]) == (503, 0)

    def unreachable() -> Any:
        raise ConnectionRefusedError

    monkeypatch.setattr("imagegen_project.health.redis_client", unreachable)
    broken = client.get("/health/ready")
    assert (broken.status_code, broken.json()["checks"]) == (
        503,
        {"database": "ok", "redis": "unreachable", "storage": "ok"},
    )

    def away() -> Any:
        raise ProgrammingError

    monkeypatch.setattr("generation.models.Worker.objects.live", away)
    broken = client.get("/health/ready")
    assert broken.status_code == 503
    assert broken.json()["checks"] == {"database": "unreachable", "redis": "unreachable", "storage": "ok"}


def test_a_log_line_is_json_and_names_the_request(tmp_path: Any) -> None:
    """On the terminal and, with LOG_DIR, in a file a process."""
    config = logging_config(
        level="INFO", log_dir=str(tmp_path), max_bytes=10**6, keep=1, stranger_lines=0, secrets=[]
    )
    assert config["handlers"]["file"]["filename"].startswith(str(tmp_path))
    formatter = JsonFormatter(config["formatters"]["json"]["format"])
    record = logging.LogRecord("n", logging.INFO, "p", 1, "hello", None, None)
    token = request_id.set("abc")
    try:
        ContextFilter().filter(record)
    finally:
        request_id.reset(token)
    line = json.loads(formatter.format(record))
    assert (line["message"], line["request_id"]) == ("hello", "abc")


@pytest.mark.django_db
def test_an_absent_database_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Retry-After: nothing is wrong with the request."""

    def away(*args: Any, **kwargs: Any) -> Any:
        raise OperationalError

    monkeypatch.setattr("generation.api.model_views.checkpoints_enabled", away)
    response = APIClient().get("/api/v1/models")
    assert (response.status_code, response.json()["code"]) == (503, "database_unavailable")
    assert response["Retry-After"] == "5"


@pytest.mark.django_db
def test_an_unexpected_error_is_a_problem_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The traceback goes to the log, under the request's id."""

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("private")

    monkeypatch.setattr("generation.api.model_views.checkpoints_enabled", broken)
    client = APIClient(raise_request_exception=False)
    response = client.get("/api/v1/models", headers={"X-Request-Id": "abc"})
    assert (response.status_code, response.json()["code"], response.json()["request_id"]) == (
        500,
        "internal_error",
        "abc",
    )
    assert "private" not in response.content.decode()
    assert "ZeroDivisionError" in caplog.text
