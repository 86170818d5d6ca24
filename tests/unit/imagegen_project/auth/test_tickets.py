"""Socket tickets: once, soon, and only their hash in Redis."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django_redis import get_redis_connection
from pytest_django import Settings
from rest_framework.test import APIClient

from imagegen_project.auth.errors import TicketStoreUnavailableError
from imagegen_project.auth.services import token_create
from imagegen_project.auth.tickets import ticket_create, ticket_redeem


@pytest.fixture
def user(db: None) -> User:
    return User.objects.create_user("ada")


@pytest.fixture
def no_redis(settings: Settings) -> None:
    settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": "redis://127.0.0.1:1/0"}}


def test_a_ticket_works_once(user: User) -> None:
    """The second redemption finds nothing."""
    ticket = ticket_create(user=user)
    assert len(ticket) >= 43
    assert ticket_redeem(ticket) == user
    assert ticket_redeem(ticket) is None


def test_a_ticket_expires(user: User, settings: Settings) -> None:
    """Redis forgets it after TICKET_TTL_S, and never sees it in clear."""
    settings.TICKET_TTL_S = 30
    ticket = ticket_create(user=user)
    redis = get_redis_connection("default")
    (key,) = redis.keys("imagegen:ticket:*")
    assert 25 <= redis.ttl(key) <= 30
    assert ticket.encode() not in key
    assert redis.get(key) == str(user.pk).encode()
    redis.pexpire(key, 0)
    assert ticket_redeem(ticket) is None


@pytest.mark.parametrize("ticket", ["", "x", "x" * 129, "ünknown"])
def test_an_unknown_ticket_is_nobodys(db: None, ticket: str) -> None:
    """Whatever was not made here opens nothing."""
    assert ticket_redeem(ticket) is None


def test_a_deactivated_users_ticket_is_worthless(user: User) -> None:
    """The user is looked up when the ticket is redeemed."""
    ticket = ticket_create(user=user)
    User.objects.update(is_active=False)
    assert ticket_redeem(ticket) is None


@pytest.mark.django_db(transaction=True)
def test_of_concurrent_redemptions_one_wins() -> None:
    """Twenty at once: one user, nineteen times nothing."""
    user = User.objects.create_user("ada")
    ticket = ticket_create(user=user)

    def redeem(_: int) -> User | None:
        try:
            return ticket_redeem(ticket)
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(redeem, range(20)))
    assert [one for one in found if one] == [user]


def test_the_route_makes_a_ticket(user: User, bare_api: APIClient, settings: Settings) -> None:
    """POST answers 201 with a ticket and its life in seconds, which no cache may keep."""
    settings.TICKET_TTL_S = 7
    token = token_create(user=user, expires_in=None)
    answer = bare_api.post("/tickets", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer["Cache-Control"]) == (201, "no-store")
    assert answer.json().keys() == {"ticket", "expires_in"}
    assert answer.json()["expires_in"] == 7
    assert ticket_redeem(answer.json()["ticket"]) == user


def test_the_route_wants_a_user(db: None, bare_api: APIClient) -> None:
    """Nobody gets a ticket for nobody."""
    assert bare_api.post("/tickets").status_code == 401


def test_without_redis_tickets_are_unavailable(user: User, no_redis: None, bare_api: APIClient) -> None:
    """503 with Retry-After, from the route and when redeeming: not the ticket's fault."""
    bare_api.force_authenticate(user)
    answer = bare_api.post("/tickets")
    assert (answer.status_code, answer.json()["code"]) == (503, "ticket_store_unavailable")
    assert int(answer["Retry-After"]) >= 1
    with pytest.raises(TicketStoreUnavailableError):
        ticket_redeem("some-ticket")
