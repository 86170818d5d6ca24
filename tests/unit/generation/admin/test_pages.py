"""The admin's pages about jobs: verbs that say what they did, deletes that count, and queries that do not grow."""

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from generation.admin.dashboard import WINDOWS, dashboard_numbers
from generation.attempts import generation_claim
from generation.choices import CommandKind, Status
from generation.models import GeneratedImage, Generation, WebhookDelivery, Worker, WorkerCommand
from imagegen_project.auth.models import ActionOrigin
from imagegen_project.auth.services import token_create
from models_registry.models import Checkpoint
from tests.support.database import rows_for_now
from tests.support.endings import succeed
from tests.support.factories import GenerationMaker

JOBS = "/admin/generation/generation/"
MANY = 30_000
# Rows as they are stored, without what makes them: copies of one that has ended.
COPY = """
    INSERT INTO generation_generation ({columns})
    SELECT {values} FROM generation_generation, generate_series(1, %s) AS number WHERE id = %s
"""


@pytest.fixture
def page(db: None) -> Client:
    """A browser in which a member of staff is signed in."""
    client = Client()
    client.force_login(User.objects.create_superuser("root", password="x" * 12))
    return client


@pytest.fixture
def drawn(make: GenerationMaker, worker: Worker) -> Generation:
    make()
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    assert succeed(claimed)
    return Generation.objects.get(pk=claimed.pk)


def multiply(generation: Generation, number: int) -> None:
    """Copies of a row, as fast as PostgreSQL makes them."""
    columns = [field.column for field in Generation._meta.local_concrete_fields]
    values = ["gen_random_uuid()" if name == "id" else f'"{name}"' for name in columns]
    with connection.cursor() as cursor:
        named = ", ".join(f'"{name}"' for name in columns)
        cursor.execute(COPY.format(columns=named, values=", ".join(values)), [number, generation.pk])


def act(page: Client, address: str, action: str, *rows: Any, **more: str) -> str:
    """Runs an action on rows; the page that comes then."""
    body = {"action": action, "_selected_action": [str(row.pk) for row in rows], **more}
    return page.post(address, body, follow=True).content.decode()


@pytest.mark.slow
def test_lists_cost_the_same_at_30000_generations(page: Client, drawn: Generation) -> None:
    """The lists, a job's page, and the dashboard."""
    paths = [JOBS, f"{JOBS}{drawn.pk}/change/", "/admin/dashboard.json", "/admin/auth/user/"]
    for path in paths:
        page.get(path)  # what is read once is no row's

    def queries() -> list[int]:
        counts = []
        for path in paths:
            with CaptureQueriesContext(connection) as captured:
                assert page.get(path).status_code == 200, path
            counts.append(len(captured))
        return counts

    few = queries()
    with rows_for_now("generation_generation"):
        multiply(drawn, MANY)
        assert queries() == few


def test_a_jobs_page_says_first_what_became_of_it(page: Client, drawn: Generation) -> None:
    """Error, pictures and timeline on top; thumbnails instead of files; seconds and pixels."""
    Generation.objects.filter(pk=drawn.pk).update(
        attempt_log=[{"attempt": 1, "worker": "w9", "reason": "worker_lost", "at": "2026-01-01T00:00:00Z"}]
    )
    html = page.get(f"{JOBS}{drawn.pk}/change/").content.decode()
    order = [
        html.index(text)
        for text in ("What became of it", "timeline", "What was asked for", "Whose, and where")
    ]
    assert order == sorted(order)
    assert "attempt 1 on w9: worker_lost" in html
    assert f'<img src="{drawn.get_absolute_url()}/images/0?width=256"' in html
    assert "256 x 256 pixels" in html
    assert f"{drawn.get_absolute_url()}/images/0?width=128" in page.get(JOBS).content.decode()


def test_pictures_rows_open(page: Client, drawn: Generation) -> None:
    image = GeneratedImage.objects.get()
    rows = page.get("/admin/generation/generatedimage/").content.decode()
    assert f"/admin/generation/generatedimage/{image.pk}/change/" in rows
    assert page.get(f"/admin/generation/generatedimage/{image.pk}/change/").status_code == 200


def test_jobs_are_canceled_and_retried(page: Client, make: GenerationMaker) -> None:
    """From the row's own page, to which one comes back; each verb says what it did."""
    queued = make()
    back = f"{JOBS}{queued.pk}/change/"
    assert '<button name="action" value="cancel_selected">' in page.get(back).content.decode()
    answer = page.post(
        JOBS, {"action": "cancel_selected", "_selected_action": str(queued.pk), "index": "0", "back": back}
    )
    assert (answer.status_code, answer["Location"]) == (302, back)
    assert "Canceled: " in page.get(back).content.decode()
    queued.refresh_from_db()
    assert queued.status == Status.CANCELED
    assert "Made anew" in act(page, JOBS, "retry_selected", queued)
    again = Generation.objects.get(retry_of=queued)
    assert (again.owner, again.status) == (queued.owner, Status.QUEUED)
    refused = act(page, JOBS, "retry_selected", again)
    assert "Made anew: none" in refused
    assert "Only a generation that has ended can be retried" in refused
    strange = page.post(
        JOBS,
        {
            "action": "cancel_selected",
            "_selected_action": str(again.pk),
            "back": "https://elsewhere.example/",
        },
    )
    assert "elsewhere" not in strange["Location"]


def test_cancel_reads_only_what_has_not_ended(page: Client, make: GenerationMaker, drawn: Generation) -> None:
    """Of all that there are, however many."""
    multiply(drawn, 300)
    queued = make()
    body = {"action": "cancel_selected", "_selected_action": str(queued.pk), "select_across": "1"}
    with CaptureQueriesContext(connection) as captured:
        assert page.post(JOBS, body | {"index": "0"}).status_code == 302
    queued.refresh_from_db()
    assert queued.status == Status.CANCELED
    read = [one["sql"] for one in captured if 'FROM "generation_generatedimage"' in one["sql"]]
    assert all(str(drawn.pk) not in sql for sql in read)


@pytest.mark.slow
def test_many_are_deleted_without_being_loaded(page: Client, drawn: Generation) -> None:
    """Asked with numbers, in a small page; one line in the audit trail."""
    multiply(drawn, 300)
    body = {
        "action": "delete_selected",
        "_selected_action": str(drawn.pk),
        "select_across": "1",
        "index": "0",
    }
    with CaptureQueriesContext(connection) as captured:
        asked = page.post(JOBS, body)
    html = asked.content.decode()
    assert "<strong>301</strong> generations" in html
    assert "and 281 more" in html
    assert len(captured) < 40
    done = page.post(JOBS, body | {"post": "yes"}, follow=True).content.decode()
    assert "Deleted: 301 of 301." in done
    assert not Generation.objects.exists()
    assert [entry.object_repr for entry in LogEntry.objects.all()] == ["301 generations"]


def test_a_user_is_deleted_with_numbers(page: Client, drawn: Generation, owner: User) -> None:
    multiply(drawn, 250)
    address = f"/admin/auth/user/{owner.pk}/delete/"
    assert "251" in page.get(address).content.decode()
    assert page.post(address, {"post": "yes"}).status_code == 302
    assert not User.objects.filter(pk=owner.pk).exists()
    assert not Generation.objects.exists()


def test_a_user_goes_only_with_what_one_may_delete(client: Client, drawn: Generation, owner: User) -> None:
    """Whoever may delete users, and no generations, deletes none with their owner."""
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename__in=("view_user", "delete_user")))
    client.force_login(clerk)
    address = f"/admin/auth/user/{owner.pk}/delete/"
    assert client.post(address, {"post": "yes"}).status_code == 403
    body = {"action": "delete_selected", "_selected_action": [owner.pk]}
    assert "You may not delete:" in client.post("/admin/auth/user/", body).content.decode()
    assert client.post("/admin/auth/user/", body | {"post": "yes"}).status_code == 403
    assert Generation.objects.filter(pk=drawn.pk, owner=owner).exists()


def test_the_trail_outlasts_whoever_left_it(page: Client, make: GenerationMaker) -> None:
    """Those who did something on these pages can be deactivated, and not be deleted."""
    former = User.objects.create_superuser("former", password="x" * 12)
    theirs = Client()
    theirs.force_login(former)
    act(theirs, JOBS, "cancel_selected", make())
    assert page.post(f"/admin/auth/user/{former.pk}/delete/", {"post": "yes"}).status_code == 403
    assert LogEntry.objects.filter(user=former).count() == 1


def test_a_model_in_use_cannot_be_deleted(page: Client, make: GenerationMaker) -> None:
    make()
    builtin = Checkpoint.objects.get(id="builtin")
    html = act(page, "/admin/models_registry/checkpoint/", "delete_selected", builtin)
    assert "1 generations" in html
    assert Checkpoint.objects.filter(id="builtin").exists()


def test_a_users_page_says_what_is_used(page: Client, drawn: Generation, owner: User, settings: Any) -> None:
    settings.STORAGE_QUOTA_BYTES, settings.WORK_LIMIT = 10_000_000, 100
    token = token_create(user=owner, expires_in=timedelta(days=1), name="laptop")
    html = page.get(f"/admin/auth/user/{owner.pk}/change/").content.decode()
    assert f'{JOBS}?owner__id__exact={owner.pk}">1</a>' in html
    assert "laptop" in html
    assert token not in html
    assert "of 9.5" in html


def test_a_worker_is_drained(page: Client, worker: Worker) -> None:
    """A silent one cannot be told."""
    rows = page.get("/admin/generation/worker/").content.decode()
    assert re.search(r"\d\.\d s ago", rows)
    assert "Told to drain: worker-1" in act(page, "/admin/generation/worker/", "drain", worker)
    assert WorkerCommand.objects.get().kind == CommandKind.DRAIN
    Worker.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=2))
    html = act(page, "/admin/generation/worker/", "drain", worker)
    assert "nobody to tell" in html
    assert "silent" in html


def test_workers_are_alive_by_the_databases_clock(
    page: Client, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the web process's own is a minute ahead."""
    ahead = timezone.now() + timedelta(minutes=1)
    monkeypatch.setattr(timezone, "now", lambda: ahead)
    assert f'<span class="state {worker.status}">' in page.get("/admin/generation/worker/").content.decode()
    numbers = dashboard_numbers("hour")
    assert [one["state"] for one in numbers["workers"]] == [worker.status]
    assert numbers["troubles"] == []


def test_another_default_is_one_click(page: Client) -> None:
    address = "/admin/models_registry/checkpoint/"
    former, other = Checkpoint.objects.get(pk="builtin"), Checkpoint.objects.get(pk="sd-1-5")
    for row in (former, other):
        assert f"The default now: {row.pk}" in act(page, address, "make_default", row)
        assert [one.pk for one in Checkpoint.objects.filter(is_default=True)] == [row.pk]
    assert "make another one the default first" in act(page, address, "disable", other)
    assert Checkpoint.objects.get(pk=other.pk).enabled


def test_a_webhook_is_tried_again(page: Client, owner: User) -> None:
    delivery = WebhookDelivery.objects.create(
        owner=owner,
        url="https://example.org/hook",
        event="failed",
        payload={},
        status="failed",
        attempts=8,
        next_attempt_at=timezone.now() + timedelta(days=1),
        finished_at=timezone.now(),
    )
    assert "Tried again now" in act(page, "/admin/generation/webhookdelivery/", "try_again", delivery)
    delivery.refresh_from_db()
    assert (delivery.status, delivery.finished_at) == ("pending", None)
    assert delivery.next_attempt_at <= timezone.now()


def test_models_are_loaded_and_unloaded(page: Client, worker: Worker) -> None:
    """By orders to workers; without one the page says so."""
    address, builtin = "/admin/models_registry/checkpoint/", Checkpoint.objects.get(id="builtin")
    assert "Load ordered: builtin" in act(page, address, "load", builtin)
    assert "Unload ordered: builtin" in act(page, address, "unload", builtin)
    assert {one.kind for one in WorkerCommand.objects.all()} == {CommandKind.LOAD, CommandKind.UNLOAD}
    Worker.objects.all().delete()
    assert "No GPU worker is alive" in act(page, address, "load", builtin)


def test_the_audit_trail_says_who_what_when_and_from_where(page: Client, make: GenerationMaker) -> None:
    """Of verbs and deletes; searchable; nothing of it can be changed or deleted."""
    queued = make()
    act(page, JOBS, "cancel_selected", queued)
    page.post(f"{JOBS}{queued.pk}/delete/", {"post": "yes"})
    assert [(entry.user.username, entry.origin.address) for entry in LogEntry.objects.all()] == [
        ("root", "127.0.0.1")
    ] * 2
    assert all(origin.request_id for origin in ActionOrigin.objects.all())
    trail = "/admin/admin/logentry/"
    found = page.get(f"{trail}?q=127.0.0.1").content.decode()
    assert "Canceled" in found
    assert "0 log entries" not in found
    assert "0 log entries" in page.get(f"{trail}?q=nobody").content.decode()
    entry = LogEntry.objects.first()
    assert entry is not None
    assert page.post(f"{trail}{entry.pk}/delete/", {"post": "yes"}).status_code == 403
    assert page.post(f"{trail}{entry.pk}/change/", {}).status_code == 403


def test_the_trail_is_narrowed_to_those_who_did_something(
    page: Client, make: GenerationMaker, owner: User
) -> None:
    """Not to one of all users, of whom there may be thousands."""
    other, second = User.objects.create_superuser("other", password="x" * 12), Client()
    second.force_login(other)
    for browser in (page, second):
        act(browser, JOBS, "cancel_selected", make())
    html = page.get("/admin/admin/logentry/").content.decode()
    assert f"user__id__exact={other.pk}" in html
    assert f"user__id__exact={owner.pk}" not in html


def test_the_dashboards_numbers(make: GenerationMaker, drawn: Generation, worker: Worker) -> None:
    """They are those of the rows, and each leads to the list with as many."""
    multiply(drawn, 9)
    Generation.objects.filter(pk=drawn.pk).update(latency_ms=100_000)
    failed = make()
    Generation.objects.filter(pk=failed.pk).update(
        status="failed", error_code="timeout", finished_at=timezone.now()
    )
    make()
    numbers = dashboard_numbers("hour")
    tiles = {tile["name"]: tile for tile in numbers["tiles"]}
    assert {
        name: tiles[name]["value"] for name in ("queued", "running", "succeeded", "failed", "canceled")
    } == {
        "queued": 1,
        "running": 0,
        "succeeded": 10,
        "failed": 1,
        "canceled": 0,
    }
    assert tiles["p50"]["value"] == pytest.approx(0.012)
    assert tiles["workers"]["value"] == 1
    series = numbers["series"]
    assert (sum(series["succeeded"]), sum(series["failed"])) == (10, 1)
    assert len({len(line) for line in series.values()}) == 1
    assert [(one["code"], one["number"]) for one in numbers["failures"]] == [("timeout", 1)]
    assert numbers["troubles"] == []
    client = Client()
    client.force_login(User.objects.create_superuser("root", password="x" * 12))
    for name in ("queued", "running", "succeeded", "failed", "canceled"):
        answer = client.get(tiles[name]["link"])
        assert answer.context["cl"].result_count == tiles[name]["value"], name


def test_workers_that_were_lost_of_late(make: GenerationMaker, drawn: Generation) -> None:
    """The last ones first; of jobs that ended long ago none."""
    deaths = [
        {
            "attempt": number,
            "worker": f"w{number}",
            "reason": reason,
            "at": f"2026-01-0{number}T00:00:00.000Z",
        }
        for number, reason in ((1, "worker_lost"), (2, "drained"), (3, "worker_lost"))
    ]
    Generation.objects.filter(pk=drawn.pk).update(attempt_log=deaths)
    waits = make()
    Generation.objects.filter(pk=waits.pk).update(
        attempt_log=[deaths[0] | {"worker": "w9", "at": "2026-01-02"}]
    )
    found = dashboard_numbers("hour")["deaths"]
    assert [one["worker"] for one in found] == ["w3", "w9", "w1"]
    assert found[0]["at"] == "2026-01-03 00:00:00"
    assert str(drawn.pk) in found[0]["link"]
    Generation.objects.filter(pk=drawn.pk).update(finished_at=timezone.now() - timedelta(hours=2))
    assert [one["worker"] for one in dashboard_numbers("hour")["deaths"]] == ["w9"]
    assert len(dashboard_numbers("day")["deaths"]) == 3


@pytest.mark.parametrize("rights", [("view",), ("view", "delete")])
def test_the_longest_wait_leads_to_who_waits(
    client: Client, make: GenerationMaker, rights: tuple[str, ...]
) -> None:
    """On top of the list, also for those who may only look."""
    waiting = [make() for _ in range(3)]
    clerk = User.objects.create_user("clerk", is_staff=True)
    names = [f"{right}_generation" for right in rights]
    clerk.user_permissions.set(Permission.objects.filter(codename__in=names))
    client.force_login(clerk)
    [oldest] = [tile for tile in dashboard_numbers("hour")["tiles"] if tile["name"] == "oldest"]
    shown = client.get(oldest["link"]).context["cl"].result_list
    assert [one.pk for one in shown] == [one.pk for one in waiting]


@pytest.mark.parametrize("window", WINDOWS)
def test_what_is_broken_is_said_with_what_to_do(window: str, page: Client) -> None:
    Checkpoint.objects.filter(pk="sd-xl-base").update(
        enabled=True, state="broken", error_code="not_found", error_detail="The Hub does not have it."
    )
    numbers = json.loads(page.get(f"/admin/dashboard.json?window={window}").content)
    said = " ".join(one["what"] for one in numbers["troubles"])
    assert "No GPU worker is alive" in said
    assert "sd-xl-base: The Hub does not have it." in said
    for trouble in numbers["troubles"]:
        assert trouble["remedy"]
        assert page.get(trouble["link"]).status_code == 200


def test_the_dashboard_is_for_those_who_may_see_jobs(client: Client, staff: User) -> None:
    client.force_login(staff)
    assert client.get("/admin/dashboard.json").status_code == 403
    assert b'id="dashboard"' not in client.get("/admin/").content


def test_the_dashboard_is_on_the_first_page_alone(page: Client) -> None:
    """And not above the lists of each part again."""
    shown = {path: page.get(path).content.decode() for path in ("/admin/", "/admin/models_registry/")}
    for word in ('id="dashboard"', "js/admin/dashboard.js"):
        assert [word in html for html in shown.values()] == [True, False]
