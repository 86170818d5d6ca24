"""A headless Chromium on pages of the running service; skipped, with the reason, where there is none."""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser.visits import Visits, chromium_path
from tests.support.live import Live

if TYPE_CHECKING:
    from playwright.async_api import Page

# Without a sandbox of its own: Chromium has none for root, and the page is the test's.
OPTIONS = ["--no-sandbox"]


@pytest.fixture
async def page(live: Live) -> AsyncIterator["Page"]:
    """A page of the service (the log-in form), under the rules (CSP) that all of its pages have."""
    executable = chromium_path()
    from playwright.async_api import async_playwright

    async with async_playwright() as started:
        browser = await started.chromium.launch(executable_path=executable, args=OPTIONS)
        opened = await browser.new_page()
        await opened.goto(f"{live.url}/sign-in/")
        yield opened
        await browser.close()


@pytest.fixture(scope="module")
def visits(live: Live) -> Iterator[Visits]:
    """Pages of the program, signed in."""
    executable = chromium_path()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=executable, args=OPTIONS)
        yield Visits(browser, live)
        browser.close()
