"""A headless Chromium on a page of the running service; skipped, with the reason, where there is none."""

import shutil
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from tests.support.live import Live

if TYPE_CHECKING:
    from playwright.async_api import Page


@pytest.fixture
async def page(live: Live) -> AsyncIterator["Page"]:
    """A page of the service (the log-in form), under the rules (CSP) that all of its pages have."""
    playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no Chromium on this machine")
    async with playwright.async_playwright() as started:
        # Without a sandbox of its own: Chromium has none for root, and the page is the test's.
        browser = await started.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        opened = await browser.new_page()
        await opened.goto(f"{live.url}/sign-in/")
        yield opened
        await browser.close()
