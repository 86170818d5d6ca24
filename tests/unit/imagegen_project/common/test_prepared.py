"""Questions to the database that are put into SQL once."""

import pytest
from django.contrib.auth.models import User
from django.db.models import F, QuerySet
from pytest_django import DjangoAssertNumQueries

from imagegen_project.common.prepared import Prepared, open_value


@pytest.mark.django_db
def test_a_question_is_put_once_and_asked_with_other_values(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    """Each time it finds what is there then; what it annotates comes with the row."""
    put: list[str] = []

    def rows() -> QuerySet[User]:
        put.append("once")
        called = User.objects.filter(username=open_value("name"), is_active=True)
        return called.annotate(address=F("email"))

    prepared: Prepared[User] = Prepared(rows)
    assert prepared.all(name="anna") == []
    assert prepared.first(name="anna") is None
    for name in ("anna", "bert"):
        User.objects.create(username=name, email=f"{name}@example.com")
    for name in ("anna", "bert"):
        with django_assert_num_queries(1):
            found = prepared.first(name=name)
        assert found is not None
        assert (found.username, vars(found)["address"]) == (name, f"{name}@example.com")
    User.objects.filter(username="bert").update(is_active=False)
    assert prepared.first(name="bert") is None
    assert put == ["once"]
