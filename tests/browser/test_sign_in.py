"""The ways in, and out again."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from imagegen_project.standalone import paths
from tests.browser.visits import PHONE, Visits, too_wide, violations
from tests.support.live import Live

if TYPE_CHECKING:
    from playwright.sync_api import Page

LINK = """
from django.contrib.auth.models import User
from imagegen_project.auth.tickets import link_create
print(link_create(user=User.objects.get(username="local")))
"""


def by_password(page: "Page", live: Live) -> None:
    """After a wrong one, which is said."""
    page.fill("#id_username", "local")
    page.fill("#id_password", "wrong")
    page.click("button:text-is('Sign in')")
    page.wait_for_selector("[role=alert] .errorlist")
    assert (too_wide(page), violations(page)) == ([], [])
    page.fill("#id_password", paths.read_secret(live.service.data_dir, "admin_password"))
    page.click("button:text-is('Sign in')")


def by_token(page: "Page", live: Live) -> None:
    """Pasted once."""
    page.click("summary:has-text('Sign in with a token')")
    page.fill("#id_token", live.token)
    assert (too_wide(page), violations(page)) == ([], [])
    page.click("button:has-text('Sign in with the token')")


def by_link(page: "Page", live: Live) -> None:
    """As the terminal prints it; it is confirmed, and ends with that."""
    link = f"/sign-in/once/{live.shell(LINK).strip()}/"
    page.goto(link)
    assert (too_wide(page), violations(page)) == ([], [])
    page.click("button:text-is('Sign in')")
    page.wait_for_selector(".draw:enabled")
    answer = page.goto(link)
    assert answer is not None
    assert answer.status == 404
    assert violations(page) == []
    page.goto("/gallery/")


@pytest.mark.parametrize("way", [by_password, by_token, by_link])
def test_three_ways_lead_in_and_one_out(
    visits: Visits, live: Live, way: Callable[["Page", Live], None]
) -> None:
    """Whoever came for a page is led to it."""
    visits.complaints.clear()
    with visits.opened("/gallery/", state=None, viewport=PHONE) as page:
        assert page.url.endswith("/sign-in/?next=/gallery/")
        assert violations(page) == []
        way(page, live)
        page.wait_for_url("**/gallery/")
        page.wait_for_selector(".gallery h1")
        page.click("text=Sign out")
        page.wait_for_selector("#id_password")
        page.goto("/")
        assert "/sign-in/" in page.url
    assert visits.complaints == []
