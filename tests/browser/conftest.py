"""A headless Chromium on pages of the running service; skipped, with the reason, where there is none."""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.browser.visits import OPTIONS, Visits, chromium_path
from tests.support.live import Live

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

EDITOR = "tiny-editor"
SWIFT = "tiny-swift"
COMMIT = "e" * 40
REGISTER = f"""
from models_registry.models import Checkpoint
for id, family, pipeline in (("{EDITOR}", "flux2", "Flux2KleinPipeline"), ("{SWIFT}", "flux", "FluxPipeline")):
    Checkpoint.objects.create(
        id=id, name=id, repository=f"tiny/{{id}}", revision="{COMMIT}", state="present", family=family,
        pipeline=pipeline, licence="mit", dtype="float32", default_steps=2, default_guidance_scale=4,
        default_width=64, default_height=64, min_size=64, max_size=256,
    )
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator["Browser"]:
    """Chromium; its pages share nothing. Tests that use it run in the loop of their file."""
    executable = chromium_path()
    from playwright.async_api import async_playwright

    async with async_playwright() as started:
        launched = await started.chromium.launch(executable_path=executable, args=OPTIONS)
        yield launched
        await launched.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: "Browser", live: Live) -> AsyncIterator["Page"]:
    """A page of the service (the log-in form), under the rules (CSP) that all of its pages have."""
    opened = await browser.new_page()
    await opened.goto(f"{live.url}/sign-in/")
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
def visits(live: Live) -> Iterator[Visits]:
    """Pages of the program, signed in."""
    executable = chromium_path()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=executable, args=OPTIONS)
        yield Visits(browser, live)
        browser.close()


@pytest.fixture(scope="session")
def editor(live: Live) -> str:
    """The id of a model that edits pictures by instruction, with tiny random weights."""
    from tests.support.tiny_checkpoints import tiny_checkpoint_copy

    for name, family in ((EDITOR, "flux2-klein"), (SWIFT, "flux")):
        tiny_checkpoint_copy(family, live.service.data_dir / "models" / name / COMMIT)
    live.shell(REGISTER)
    return EDITOR


@pytest.fixture(scope="session")
def swift(editor: str) -> str:
    """The id of a model that can be accelerated, registered beside that one."""
    return SWIFT
