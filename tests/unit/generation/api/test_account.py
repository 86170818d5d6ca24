"""Who one is, and what one has used."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from pytest_django import DjangoAssertNumQueries, Settings
from rest_framework.test import APIClient

from generation.attempts import generation_claim
from generation.models import Generation, Worker
from imagegen_project.auth.services import token_create
from models_registry.models import Checkpoint
from tests.support.endings import drawn_picture, succeed
from tests.support.factories import GenerationMaker


def test_me_by_token_and_by_session(owner: User, settings: Settings) -> None:
    """Nobody else's name, and how one came in."""
    settings.MAX_QUEUED_PER_USER = 7
    token = token_create(user=owner, expires_in=None)
    by_token = APIClient().get("/api/v1/me", headers={"Authorization": f"Bearer {token}"}).json()
    assert (by_token["username"], by_token["came_by"], by_token["session"]) == ("ada", "local", False)
    assert by_token["ways_in"] == {"password": False, "hub_account": None, "tokens": 1}
    assert (by_token["limits"]["max_queued"], by_token["limits"]["max_priority"]) == (7, 0)
    client = APIClient()
    client.post("/sign-in/", {"token": token}, format="multipart")
    by_session = client.get("/api/v1/me/").json()
    assert (by_session["came_by"], by_session["session"]) == ("local", True)


def drawn(make: GenerationMaker, worker: Worker, days_ago: int = 0, **changes: Any) -> Generation:
    make(**changes)
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    assert succeed(claimed)
    Generation.objects.filter(pk=claimed.pk).update(created_at=claimed.created_at - timedelta(days=days_ago))
    return claimed


def test_usage_by_day_and_model(
    api: APIClient,
    make: GenerationMaker,
    worker: Worker,
    stranger: User,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    """One's own, of the days that are asked for; the queries are the same however much there is."""
    first = drawn(make, worker)
    with django_assert_num_queries(6):
        api.get("/api/v1/usage")
    drawn(make, worker)
    drawn(make, worker, days_ago=2)
    drawn(make, worker, days_ago=3)
    drawn(make, worker, owner=stranger)
    make(checkpoint=Checkpoint.objects.get(id="sd-1-5"), width=512, height=512)
    with django_assert_num_queries(6):
        usage = api.get("/api/v1/usage/", {"days": 3}).json()["days"]
    size = len(drawn_picture().data)
    work = round(2 * 256 * 256 * 4 / 1e6, 3)
    today = {"day": first.created_at.date().isoformat(), "model": "builtin", "jobs": 2, "pictures": 2}
    assert usage[0] == today | {"megapixel_steps": work, "bytes": 2 * size}
    assert (usage[1]["model"], usage[1]["jobs"], usage[1]["pictures"]) == ("sd-1-5", 1, 0)
    assert (usage[1]["megapixel_steps"], usage[1]["bytes"]) == (0, 0)
    assert [row["jobs"] for row in usage] == [2, 1, 1]


def test_what_is_left(api: APIClient, make: GenerationMaker, settings: Settings) -> None:
    """Of each limit that there is; what was used is said of the others, too."""
    settings.WORK_LIMIT, settings.MAX_QUEUED_PER_USER, settings.STORAGE_QUOTA_BYTES = 1.0, 3, 0
    make()
    quota = api.get("/api/v1/usage").json()["quota"]
    work = quota["work"]
    assert (work["limit"], work["window_s"]) == (1.0, settings.WORK_WINDOW_S)
    assert work["used"] == pytest.approx(0.262144)
    assert work["left"] == pytest.approx(1 - 0.262144)
    assert quota["queued"] == {"limit": 3, "used": 1, "left": 2}
    assert quota["storage"] == {"limit": None, "used": 0, "left": None}


@pytest.mark.parametrize("days", ["0", "367", "x", "-1", "", "1&days=2", "9" * 50])
def test_days_that_are_none_are_refused(api: APIClient, days: str) -> None:
    answer = api.get(f"/api/v1/usage?days={days}")
    assert (answer.status_code, answer.json()["errors"][0]["param"]) == (400, "days")
