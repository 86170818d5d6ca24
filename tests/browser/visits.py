"""Visits to the product's own pages in Chromium, as one browser and one session for the tests of a file."""

import importlib.util
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from imagegen_project.standalone import paths
from tests.support.live import Live
from tests.support.service import SAFETY_S

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
POLL_MS = 50
# Without a sandbox of its own: Chromium has none for root, and the page is the test's.
OPTIONS = ["--no-sandbox"]
MOST_TABS = 60
# The text of what has the focus.
FOCUSED = "document.activeElement.textContent.trim()"
# `.ci/run` sets it: there, tests that found no browser have failed.
REQUIRED = "BROWSER_REQUIRED"


def browser_missing(reason: str) -> None:
    """Skips the test, or fails it where a browser has to be."""
    if os.environ.get(REQUIRED):
        pytest.fail(reason)
    pytest.skip(reason)


def chromium_path() -> str:
    """Where Chromium is; ends the test where there is none, or nothing to drive it with."""
    if importlib.util.find_spec("playwright") is None:
        browser_missing("playwright is not installed")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        browser_missing("no Chromium on this machine")
    return found or ""


class Visits:
    """Opens pages of a service for its local user, and gathers what Chromium complains about."""

    def __init__(self, browser: "Browser", live: Live) -> None:
        self.browser = browser
        self.live = live
        self.complaints: list[str] = []
        with self.opened(state=None) as page:
            page.goto(f"{live.url}/sign-in/")
            page.fill("#id_username", "local")
            page.fill("#id_password", paths.read_secret(live.service.data_dir, "admin_password"))
            page.click("button:text-is('Sign in')")
            page.wait_for_selector("#prompt")
            self.state: Any = page.context.storage_state()

    @contextmanager
    def opened(self, path: str = "", *, state: Any = ..., **options: Any) -> Iterator["Page"]:
        """A page in a context of its own, signed in unless `state` says otherwise."""
        settings: dict[str, Any] = {"viewport": DESKTOP, "base_url": self.live.url} | options
        context = self.browser.new_context(storage_state=self.state if state is ... else state, **settings)
        context.set_default_timeout(SAFETY_S * 1000)
        page = context.new_page()
        page.on("console", lambda said: self._note(page, said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self._note(page, str(error)))
        try:
            if path:
                page.goto(path)
            yield page
        finally:
            context.close()

    def _note(self, page: "Page", text: str) -> None:
        # What is away while a server restarts is no complaint.
        if not re.search(r"Failed to load resource|WebSocket connection to|ERR_INTERNET_DISCONNECTED", text):
            self.complaints.append(f"{page.url}: {text}")


def until(page: "Page", expression: str) -> None:
    """Waits for an expression to hold: what Playwright has for that evaluates text, which the pages' policy forbids."""
    deadline = time.monotonic() + SAFETY_S
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(POLL_MS)


def tab_to(page: "Page", there: str, *, key: str = "Tab") -> None:
    """Goes on to the next thing that can have the focus, until the expression holds."""
    for _ in range(MOST_TABS):
        if page.evaluate(there):
            return
        page.keyboard.press(key)
    raise AssertionError(there)


def draw(page: "Page", prompt: str, *, steps: int = 2, size: int = 256, pictures: int = 1) -> None:
    """Fills the form and draws."""
    page.fill("#prompt", prompt)
    settings = page.locator("details.advanced")
    if settings.get_attribute("open") is None:
        settings.locator("summary").click()
    page.locator("#num_inference_steps").fill(str(steps))
    page.locator("#num_images").fill(str(pictures))
    for name in ("width", "height"):
        page.locator(f"input[name={name}]").fill(str(size))
        page.locator(f"input[name={name}]").press("Tab")
    page.focus("#prompt")
    page.keyboard.press("Control+Enter")


def drawn(page: "Page") -> None:
    """Waits for the large picture, and that it can be seen."""
    page.wait_for_selector(".card.large.succeeded .frame img")
    until(page, "document.querySelector('.card.large img').naturalWidth > 0")


def too_wide(page: "Page") -> list[str]:
    """What stands out of the page at its right side, or is cut off there."""
    found: list[str] = page.evaluate("""() => {
      const room = document.documentElement.clientWidth;
      const wide = document.documentElement.scrollWidth;
      const out = wide > room ? [`the page is ${wide} of ${room}`] : [];
      for (const table of document.querySelectorAll("#result_list, .numbers table"))
        if (table.scrollWidth > table.parentElement.clientWidth + 1)
          out.push(`${table.id || "a table"} is ${table.scrollWidth} of ${table.parentElement.clientWidth}`);
      return out;
    }""")
    return found


def torn(page: "Page", selector: str) -> list[str]:
    """Short words that stand on more than one line."""
    found: list[str] = page.evaluate(
        """(selector) => [...document.querySelectorAll(selector)].flatMap((one) => {
      const range = document.createRange();
      const walker = document.createTreeWalker(one, NodeFilter.SHOW_TEXT);
      const out = [];
      while (walker.nextNode())
        for (const { 0: word, index } of walker.currentNode.data.matchAll(/(?<!\\S)\\S{2,12}(?!\\S)/g)) {
          range.setStart(walker.currentNode, index);
          range.setEnd(walker.currentNode, index + word.length);
          if (new Set([...range.getClientRects()].map((line) => line.top)).size > 1) out.push(word);
        }
      return out;
    })""",
        selector,
    )
    return found


def violations(page: "Page") -> list[str]:
    """What axe-core finds serious or worse on the page as it stands."""
    page.evaluate(AXE.read_text())
    # Without preloading: axe would copy sheets that import others into styles in the page, which the policy forbids.
    found: dict[str, Any] = page.evaluate(
        "axe.run({ resultTypes: ['violations'], preload: false,"
        " rules: { 'scrollable-region-focusable': { enabled: true } } })"
    )
    return [
        f"{one['id']}: {node['html'][:160]} {node['any'][0]['message'] if node['any'] else ''}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def newest(live: Live) -> dict[str, Any]:
    """The generation that was made last."""
    row: dict[str, Any] = live.http.get("/api/v1/generations?limit=1").json()["results"][0]
    return row
