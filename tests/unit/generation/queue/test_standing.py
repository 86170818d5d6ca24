"""Who is next: priorities, owners that take turns, and what a queued generation is told about its place."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from generation.attempts import attempt_hand_back, generation_claim
from generation.choices import Status
from generation.models import Generation, Worker
from generation.queue.precedence import QUEUE_ORDER, generation_next, generations_claimable
from generation.queue.standing import queue_standing
from generation.services import generation_cancel
from tests.support.database import rows_for_now
from tests.support.endings import succeed
from tests.support.factories import GenerationMaker, checkpoint_fetch, make_worker

BASE = "/api/v1/generations"
COPIED = (
    *("owner", "checkpoint", "prompt", "width", "height", "num_inference_steps", "total_steps"),
    *("guidance_scale", "seed", "timeout_s"),
)


def claimed(worker: Worker) -> Generation:
    """The next generation, claimed."""
    generation = generation_claim(worker=worker)
    assert generation is not None
    return generation


def owners(worker: Worker, count: int) -> str:
    """Whose generations are claimed next, by the first letter of their names."""
    return "".join(claimed(worker).owner.username[0] for _ in range(count))


@pytest.mark.slow
def test_a_users_first_job_does_not_wait_behind_another_users_thousand(
    make: GenerationMaker, worker: Worker, owner: User, stranger: User
) -> None:
    """It starts after at most one of them, whenever it comes."""
    first = make()
    Generation.objects.bulk_create(
        Generation(**{name: getattr(first, name) for name in COPIED}, turn=turn) for turn in range(2, 991)
    )
    for _ in range(10):
        make()
    assert Generation.objects.filter(owner=owner).latest("id").turn == 1000
    assert owners(worker, 3) == "aaa"
    make(owner=stranger)
    assert "b" in owners(worker, 2)
    make(owner=stranger)
    assert "b" in owners(worker, 2)


def test_owners_take_turns(make: GenerationMaker, worker: Worker, stranger: User, staff: User) -> None:
    """One each, however many each has, in the order in which they came."""
    for user, count in ((None, 4), (stranger, 3), (staff, 2)):
        for _ in range(count):
            make(**({"owner": user} if user else {}))
    assert owners(worker, 9) == "abeabeaba"


def test_who_comes_again_and_again_gets_no_more_than_a_turn(
    make: GenerationMaker, worker: Worker, stranger: User
) -> None:
    """Neither by coming one at a time nor by cancelling what does not start at once."""
    for _ in range(6):
        make()
    claimed(worker)
    served = ""
    for _ in range(4):
        generation_cancel(generation=make(owner=stranger))
        make(owner=stranger)
        served += owners(worker, 2)
    assert served == "abababab"


def test_what_returned_to_the_queue_is_next_and_does_not_turn_the_clock_back(
    make: GenerationMaker, worker: Worker, stranger: User, staff: User
) -> None:
    """Newcomers queue behind the present turn, not behind the old one's."""
    for _ in range(5):
        make()
    old = claimed(worker)
    assert owners(worker, 3) == "aaa"
    for _ in range(2):
        make(owner=staff)
    attempt_hand_back(generation=old)
    for _ in range(3):
        make(owner=stranger)
    assert claimed(worker).id == old.id
    assert owners(worker, 6) == "aebebb"


def test_higher_priorities_come_first(make: GenerationMaker, worker: Worker, stranger: User) -> None:
    """Turns are taken inside each priority."""
    low = make(priority=-1)
    for _ in range(2):
        make()
    urgent = [make(priority=5).id, make(owner=stranger, priority=5).id]
    make(owner=stranger)
    assert [claimed(worker).id for _ in range(2)] == urgent
    assert owners(worker, 3) == "aba"
    assert claimed(worker).id == low.id


def test_a_resident_model_overtakes_no_higher_priority_and_nobody_for_long(
    make: GenerationMaker, worker: Worker, settings: Settings, tmp_path: Path
) -> None:
    """Only inside a priority, only while the first has just come."""
    settings.MODEL_CACHE_DIR = tmp_path
    other = checkpoint_fetch("sd-2-1")
    make(priority=1)
    make(checkpoint=other)
    first = generation_claim(worker=worker, resident=["sd-2-1"])
    assert first is not None
    assert first.priority == 1
    waiting = make()
    newer = make(checkpoint=other)
    Generation.objects.filter(checkpoint=other).exclude(pk=newer.pk).delete()
    Generation.objects.filter(pk=waiting.pk).update(created_at=timezone.now() - timedelta(seconds=11))
    taken = generation_claim(worker=worker, resident=["sd-2-1"])
    assert taken is not None
    assert taken.id == waiting.id
    waiting = make()
    taken = generation_claim(worker=worker, resident=["sd-2-1"])
    assert taken is not None
    assert taken.id == newer.id


def test_priority_is_staffs_to_raise_and_everybodys_to_lower(api: APIClient, staff: User) -> None:
    """A refusal names the field."""
    refused = api.post(BASE, {"prompt": "a", "priority": 1})
    assert refused.status_code == 400
    error = refused.json()["errors"][0]
    assert (error["param"], error["code"]) == ("priority", "permission_denied")
    assert api.post(BASE, {"prompt": "a", "priority": 11}).json()["errors"][0]["param"] == "priority"
    assert api.post(BASE, {"prompt": "a", "priority": -10}).json()["priority"] == -10
    api.force_authenticate(staff)
    assert api.post(BASE, {"prompt": "a", "priority": 10}).json()["priority"] == 10


def test_a_retry_does_not_keep_a_priority_that_staff_gave(
    api: APIClient, make: GenerationMaker, staff: User
) -> None:
    """Unless staff asks for it."""
    original = generation_cancel(generation=make(priority=5))
    assert api.post(f"{BASE}/{original.id}/retry").json()["priority"] == 0
    api.force_authenticate(staff)
    assert api.post(f"{BASE}/{original.id}/retry").json()["priority"] == 5


def test_place_and_start_are_told_from_measured_speeds(
    api: APIClient, make: GenerationMaker, worker: Worker
) -> None:
    """At creation and in the detail; no list pays for it."""
    make()
    assert succeed(claimed(worker), latency_ms=2000)
    running = make()
    claimed(worker)
    Generation.objects.filter(pk=running.pk).update(step=2)
    make()
    before = timezone.now()
    body = api.post(BASE, {"prompt": "b", "width": 256, "height": 256, "steps": 4}).json()
    assert body["queue_position"] == 2
    # Half of what runs, and all of the one before it.
    standing = queue_standing(Generation.objects.get(pk=body["id"]))
    assert standing is not None
    assert standing.starts_at is not None
    assert (
        timedelta(seconds=3)
        <= standing.starts_at - before
        <= timedelta(seconds=3) + (timezone.now() - before)
    )
    detail = api.get(f"{BASE}/{body['id']}").json()
    assert detail["queue_position"] == 2
    assert detail["estimated_start_at"] > body["created_at"]
    assert "queue_position" not in api.get(BASE).json()["results"][0]
    make_worker("worker-2")
    twice = queue_standing(Generation.objects.get(pk=body["id"]))
    assert twice is not None
    assert twice.starts_at is not None
    assert twice.starts_at < standing.starts_at
    done = api.get(f"{BASE}/{running.id}").json()
    assert (done["queue_position"], done["estimated_start_at"]) == (None, None)


def test_nothing_is_estimated_without_a_measurement(api: APIClient, make: GenerationMaker) -> None:
    """The place is known all the same."""
    make()
    body = api.post(BASE, {"prompt": "b"}).json()
    assert (body["queue_position"], body["estimated_start_at"]) == (2, None)
    waits_for_files = api.post(BASE, {"prompt": "b", "model": "sd-2-1"}).json()
    assert (waits_for_files["queue_position"], waits_for_files["estimated_start_at"]) == (3, None)


def test_work_is_counted_beyond_32_bits(api: APIClient, make: GenerationMaker, worker: Worker) -> None:
    """Ten pictures of 2048 x 2048 in 100 steps are more pixels than PostgreSQL's integers hold."""
    large = {"width": 2048, "height": 2048, "num_images": 10, "num_inference_steps": 100}
    make(**large)
    assert succeed(claimed(worker), latency_ms=2_000_000)
    make(**large)
    claimed(worker)
    make(**large)
    before = timezone.now()
    body = api.post(BASE, {"prompt": "b"}).json()
    assert body["queue_position"] == 2
    assert datetime.fromisoformat(body["estimated_start_at"]) >= before + timedelta(seconds=3990)
    usage = api.get("/api/v1/usage").json()
    assert sum(day["megapixel_steps"] for day in usage["days"]) > 4000


QUEUED_ROWS = 100_000


@pytest.fixture
def long_queue(make: GenerationMaker, owner: User) -> Iterator[Generation]:
    """A queue of a hundred thousand: copies of one row, by a thousand owners."""
    User.objects.bulk_create(User(username=f"user-{number}") for number in range(1000))
    first = make()
    columns = [field.column for field in Generation._meta.concrete_fields]
    changed = {
        "id": "gen_random_uuid()",
        "owner_id": "(SELECT min(id) FROM auth_user) + n %% 1000",
        "turn": "2 + n / 1000",
        "priority": "-(n %% 3)",
    }
    chosen = ", ".join(changed.get(column, f'"{column}"') for column in columns)
    named = ", ".join(f'"{column}"' for column in columns)
    with rows_for_now("generation_generation"), connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO generation_generation ({named}) SELECT {chosen} "
            "FROM generation_generation, generate_series(1, %s) n WHERE id = %s",
            [QUEUED_ROWS, first.id],
        )
        cursor.execute("ANALYZE generation_generation")
        yield first


def plan_nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """All nodes of a plan."""
    return [plan, *(node for child in plan.get("Plans", []) for node in plan_nodes(child))]


@pytest.mark.slow
def test_a_claim_reads_a_few_rows_of_a_hundred_thousand(long_queue: Generation, worker: Worker) -> None:
    """The first entry of an index, whatever waits behind it."""
    queries = {
        "claim": generations_claimable()
        .select_for_update(skip_locked=True, of=("self",))
        .order_by(*QUEUE_ORDER)[:1],
        "owner": Generation.objects.filter(owner=long_queue.owner, status=Status.QUEUED).order_by()[:1],
    }
    for name, rows in queries.items():
        plan = rows.explain(format="json", analyze=True)
        nodes = plan_nodes(json.loads(plan)[0]["Plan"])
        read = sum(node["Actual Rows"] * node["Actual Loops"] for node in nodes if "Relation Name" in node)
        assert read < 100, (name, plan)
    assert generation_next() == long_queue
    with CaptureQueriesContext(connection) as queries_of_claim:
        assert claimed(worker) == long_queue
    assert len(queries_of_claim) < 12
