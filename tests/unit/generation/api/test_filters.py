"""Lists refuse what they cannot mean."""

import pytest
from rest_framework.test import APIClient

BASE = "/api/v1/generations"


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1.5", "", "٣", "5&limit=6"])
def test_a_limit_that_is_none_is_refused(api: APIClient, limit: str) -> None:
    """Instead of taking the default in silence."""
    response = api.get(f"{BASE}?limit={limit}")
    assert response.status_code == 400
    assert response.json()["errors"][0]["param"] == "limit"


@pytest.mark.parametrize("limit", ["1", "100", "1000000000000"])
def test_a_limit_is_taken_up_to_the_greatest(api: APIClient, limit: str) -> None:
    assert api.get(f"{BASE}?limit={limit}").status_code == 200


@pytest.mark.parametrize("name", ["kind", "model", "created_after", "created_before"])
def test_an_empty_filter_is_refused(api: APIClient, name: str) -> None:
    """It would narrow nothing; a browsable page sends all that it has."""
    refused = api.get(f"{BASE}?{name}=")
    assert (refused.status_code, refused.json()["errors"][0]["param"]) == (400, name)
    assert api.get(f"{BASE}?{name}=", headers={"Accept": "text/html"}).status_code == 200


@pytest.mark.parametrize("name", ["created_after", "created_before"])
def test_moments_of_any_offset(api: APIClient, name: str) -> None:
    """PostgreSQL takes none beyond 16 hours; such a moment exists all the same."""
    assert api.get(BASE, {name: "4075-02-28T03:03:00-22:11"}).status_code == 200
    refused = api.get(BASE, {name: "0001-01-01T00:00:00+05:00"})
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["param"] == name
