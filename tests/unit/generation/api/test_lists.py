"""One's own generations as a gallery: searched, marked, slim, and deleted by the dozen."""

from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django import DjangoAssertNumQueries
from rest_framework.test import APIClient

from generation.attempts import generation_claim
from generation.models import Generation, Worker
from tests.support.endings import succeed
from tests.support.factories import GenerationMaker, client_of

BASE = "/api/v1/generations"


def prompts(api: APIClient, **query: Any) -> list[str]:
    answer = api.get(BASE, query)
    assert answer.status_code == 200, answer.content
    return [row["prompt"] for row in answer.json()["results"]]


def make_ended(make: GenerationMaker, worker: Worker, count: int) -> None:
    """So many that succeeded, with a picture each."""
    for _ in range(count):
        make()
        claimed = generation_claim(worker=worker)
        assert claimed is not None
        assert succeed(claimed)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("circle", ["two red circles", "a red circle"]),
        ("RED, circle!", ["two red circles", "a red circle"]),
        ("blue", ["a blue-green star"]),
        ("gree sta", ["a blue-green star"]),
        ("赤い", ["赤い円"]),
        ("circle blue", []),
        ("the", []),
        ("' | !a:* <-> \\", ["a blue-green star", "a red circle"]),
    ],
)
def test_words_of_the_prompt(api: APIClient, make: GenerationMaker, words: str, found: list[str]) -> None:
    """All of them, in full or by how they begin, whatever else stands between them."""
    for prompt in ("a red circle", "two red circles", "a blue-green star", "赤い円"):
        make(prompt=prompt)
    assert prompts(api, q=words) == found


@pytest.mark.parametrize("words", ["", "!?", "_", "a " * 21, "a" * 201, "\0"])
def test_what_is_no_word_is_refused(api: APIClient, words: str) -> None:
    """By name."""
    answer = api.get(BASE, {"q": words})
    assert (answer.status_code, answer.json()["errors"][0]["param"]) == (400, "q")


def test_the_search_has_an_index(staff: User, make: GenerationMaker) -> None:
    """Of the very expression that the list asks for; `benchmarks/search.py` measures it."""
    make()
    with CaptureQueriesContext(connection) as queries:
        assert prompts(client_of(staff), q="circ") == ["a red circle"]
    (asked,) = [query["sql"] for query in queries if "to_tsquery" in query["sql"]]
    with connection.cursor() as cursor:
        # So that no table is too small for an index.
        cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_indexscan = off")
        cursor.execute(f"EXPLAIN {asked}")
        assert "generation_prompt_words" in "".join(line for (line,) in cursor.fetchall())


def test_staff_see_their_own_where_they_ask_for_them(staff: User, make: GenerationMaker) -> None:
    """As the page does, which is about one's own pictures."""
    make(prompt="somebody else's")
    make(prompt="own", owner=staff)
    eve = client_of(staff)
    assert prompts(eve) == ["own", "somebody else's"]
    assert (prompts(eve, mine="true"), prompts(eve, mine="false")) == (["own"], ["somebody else's"])


def test_a_favorite_is_marked_and_found(api: APIClient, make: GenerationMaker) -> None:
    """And loses the mark again."""
    first, _ = make(prompt="first"), make(prompt="second")
    for mark, found in ((True, ["first"]), (False, [])):
        answer = api.patch(f"{first.get_absolute_url()}/", {"favorite": mark})
        assert (answer.status_code, answer.json()["favorite"]) == (200, mark)
        assert prompts(api, favorite="true") == found
    assert prompts(api, favorite="false") == ["second", "first"]
    refused = api.get(BASE, {"favorite": "yes"})
    assert (refused.status_code, refused.json()["errors"][0]["param"]) == (400, "favorite")


@pytest.mark.parametrize(
    ("body", "blamed"), [({}, "favorite"), ({"favorite": "x"}, "favorite"), ({"seed": 1}, "seed")]
)
def test_nothing_else_can_be_changed(
    api: APIClient, make: GenerationMaker, stranger: User, body: dict[str, Any], blamed: str
) -> None:
    """And by nobody else."""
    generation = make()
    answer = api.patch(generation.get_absolute_url(), {"favorite": True} | body if blamed == "seed" else body)
    assert answer.status_code == 400
    assert blamed in {error["param"] for error in answer.json()["errors"]}
    assert client_of(stranger).patch(generation.get_absolute_url(), {"favorite": True}).status_code == 404
    generation.refresh_from_db()
    assert not generation.favorite


@pytest.mark.parametrize("by_staff", [False, True])
def test_whole_rows_are_what_they_are_alone(
    api: APIClient,
    make: GenerationMaker,
    worker: Worker,
    staff: User,
    django_assert_num_queries: DjangoAssertNumQueries,
    *,
    by_staff: bool,
) -> None:
    """Whatever their state, with three queries for all of them."""
    make_ended(make, worker, 2)
    make()
    client = client_of(staff) if by_staff else api
    with django_assert_num_queries(3):
        rows = client.get(BASE).json()["results"]
    assert [row["status"] for row in rows] == ["queued", "succeeded", "succeeded"]
    for row in rows:
        alone = client.get(f"{BASE}/{row['id']}").json()
        assert row.items() <= alone.items()


@pytest.mark.parametrize(
    ("fields", "queries"),
    [("id,status,prompt", 1), ("id, images", 2), ("loras", 2), ("id,images,loras,urls", 3)],
)
def test_slim_rows(
    api: APIClient,
    make: GenerationMaker,
    worker: Worker,
    django_assert_num_queries: DjangoAssertNumQueries,
    fields: str,
    queries: int,
) -> None:
    """Only what was asked for, and nothing is read for the rest."""
    make_ended(make, worker, 3)
    with django_assert_num_queries(queries):
        rows = api.get(BASE, {"fields": fields}).json()["results"]
    assert [set(row) for row in rows] == [{name.strip() for name in fields.split(",")}] * 3


@pytest.mark.parametrize("fields", ["", "id,", "promt", "id,owner__password", "x" * 5000])
def test_a_field_that_there_is_not_is_refused(api: APIClient, fields: str) -> None:
    """With those that there are."""
    answer = api.get(BASE, {"fields": fields})
    assert (answer.status_code, answer.json()["errors"][0]["param"]) == (400, "fields")
    assert "negative_prompt" in answer.json()["detail"]
    assert len(answer.content) < 3000


def test_many_are_deleted_at_once(
    api: APIClient, make: GenerationMaker, worker: Worker, stranger: User, staff: User
) -> None:
    """Ended or not; what is somebody else's stays, also for staff, and the answer says what became of each."""
    make()
    ended = generation_claim(worker=worker)
    assert ended is not None
    assert succeed(ended)
    queued, running, foreign, nowhere = make(), make(), make(owner=stranger), uuid4()
    assert generation_claim(worker=worker) is not None
    ids = [str(one) for one in (ended.id, queued.id, foreign.id, nowhere, running.id, ended.id)]
    answer = client_of(staff).post(f"{BASE}/delete/", {"ids": ids})
    assert answer.json()["deleted"] == []
    answer = api.post(f"{BASE}/delete/", {"ids": ids})
    assert answer.status_code == 200
    assert set(answer.json()["deleted"]) == {str(one.id) for one in (ended, queued, running)}
    assert answer.json()["not_found"] == [str(foreign.id), str(nowhere)]
    assert Generation.objects.get() == foreign


@pytest.mark.parametrize(
    "ids",
    [[], "x", ["x"], [str(uuid4()) for _ in range(101)], None],
    ids=["none", "text", "no id", "many", "null"],
)
def test_what_cannot_be_deleted_at_once_is_refused(api: APIClient, ids: Any) -> None:
    answer = api.post(f"{BASE}/delete", {"ids": ids})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["param"].startswith("ids")
