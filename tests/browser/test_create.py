"""The page at `/`: a prompt becomes a picture, whatever happens in between."""

import re
import time
from typing import TYPE_CHECKING

import pytest

from tests.browser.visits import (
    FOCUSED,
    PHONE,
    Visits,
    draw,
    drawn,
    newest,
    tab_to,
    too_wide,
    until,
    violations,
)
from tests.integration.test_live_feeds import web_process
from tests.support.lines import Line
from tests.support.live import Live

if TYPE_CHECKING:
    from playwright.sync_api import Page

# So many that none ends while one looks for its first steps.
LONG = 100
SIZE_OF = "(one) => [document.querySelector(one).naturalWidth, document.querySelector(one).naturalHeight]"
OFFLINE_S = 10
# Longer than a page waits in silence before it takes a socket for dead (`SILENCE_MS` in socket.js).
SILENCE_MS = 61_000


@pytest.fixture(autouse=True)
def _no_complaints(visits: Visits) -> None:
    """Each test begins with none, and asks for none itself."""
    visits.complaints.clear()


def begun(page: "Page") -> None:
    """Waits until some steps of the large picture are done."""
    page.wait_for_selector(".card.large.denoising")
    until(page, "Number(document.querySelector('.card.large progress').value) > 2")


def test_a_prompt_becomes_a_picture_where_one_looks(visits: Visits, live: Live) -> None:
    """A preview sharpens, the title counts, and nothing jumps. The worker stands still while one looks."""
    with visits.opened("/") as page:
        page.wait_for_selector(".examples button img")
        assert page.evaluate("document.activeElement.id") == "prompt"
        assert violations(page) == []
        draw(page, "a red circle", steps=LONG, size=512)
        page.wait_for_selector(".card.large.denoising .preview")
        with live.held():
            assert re.match(rf"Step \d+ of {LONG}", page.inner_text(".card.large .status p"))
            assert re.match(r"\d+ % · Create", page.title())
            place = page.locator(".card.large .frame").bounding_box()
            assert violations(page) == []
        drawn(page)
        assert page.locator(".card.large .frame").bounding_box() == place
        assert page.title() == "Create · imagegen"
        assert violations(page) == []
    assert visits.complaints == []


def test_two_pictures_fill_their_frame(visits: Visits) -> None:
    """From the start, so that nothing jumps when they come."""
    with visits.opened("/") as page:
        draw(page, "a red circle", steps=20, pictures=2)
        until(page, "document.querySelector('.card.large .preview')?.naturalWidth > 0")
        place = page.locator(".card.large .frame").bounding_box()
        assert place is not None
        width, height = page.evaluate(SIZE_OF, ".card.large .preview")
        assert place["width"] / place["height"] == pytest.approx(width / height, rel=0.01)
        until(page, "document.querySelectorAll('.card.large.succeeded .batch img').length === 2")
        until(
            page, "[...document.querySelectorAll('.card.large .batch img')].every((one) => one.naturalWidth)"
        )
        assert page.locator(".card.large .frame").bounding_box() == place
        shown = page.locator(".card.large .batch img")
        for box in (shown.nth(0).bounding_box(), shown.nth(1).bounding_box()):
            assert box is not None
            assert box["height"] == pytest.approx(box["width"], abs=2)
        assert violations(page) == []
    assert visits.complaints == []


def test_an_example_is_one_click(visits: Visits, live: Live) -> None:
    """No worker draws meanwhile: a fast one is done before the key is pressed."""
    with visits.opened("/") as page, live.undrawn():
        page.click(".examples li:first-child button")
        prompt = page.input_value("#prompt")
        page.wait_for_selector(".card.large")
        page.keyboard.press("Escape")
        page.wait_for_selector(".card.large.canceled")
        assert violations(page) == []
        assert prompt == newest(visits.live)["prompt"]
    assert visits.complaints == []


def test_five_queue_without_blocking_and_each_can_be_canceled(visits: Visits, live: Live) -> None:
    """By Escape the large one, by its ✕ any other."""
    with visits.opened("/") as page:
        draw(page, "a red circle 0", steps=LONG, size=512)
        page.wait_for_selector(".card.large.denoising")
        with live.held():  # none ends by itself before it is canceled
            draw(page, "a red circle 1", steps=LONG, size=384)  # of another size: it does not join the first
            for number in range(2, 5):
                page.fill("#prompt", f"a red circle {number}")
                page.keyboard.press("Control+Enter")
                assert page.is_enabled(".draw")
            until(page, "document.querySelectorAll('.card.small').length === 5")
            page.wait_for_selector(".card.large .status p:has-text('in the queue')")
            assert violations(page) == []
            page.keyboard.press("Escape")
            page.wait_for_selector(".card.large.canceled")
            for number in range(4):
                page.click(f"[aria-label='Cancel a red circle {number}']")
        until(page, "document.querySelectorAll('.card.small.canceled').length === 5")
    assert visits.complaints == []


def test_a_reload_in_the_middle_finds_the_job(visits: Visits, live: Live) -> None:
    with visits.opened("/") as page:
        draw(page, "a blue square", steps=LONG, size=512)
        begun(page)
        with live.held():
            page.reload()
            page.wait_for_selector(".card.large:is(.denoising, .decoding, .loading)")
        assert page.input_value("#prompt") == "a blue square"
        drawn(page)
    assert visits.complaints == []


def test_a_killed_worker_is_told_and_the_same_seed_goes_on(visits: Visits, live: Live) -> None:
    with visits.opened("/") as page:
        draw(page, "a green star", steps=LONG, size=384)
        begun(page)
        with live.held() as worker:
            seed = newest(live)["seed"]
            worker.kill()
        page.wait_for_selector(".card.large .status p:has-text('starting again with the same seed')")
        assert violations(page) == []
        drawn(page)
        assert newest(live)["seed"] == seed
        assert newest(live)["attempt"] == 2
    assert visits.complaints == []


def test_a_restarted_server_is_waited_for(visits: Visits, live: Live) -> None:
    with visits.opened("/") as page:
        draw(page, "a yellow ring", steps=LONG, size=512)
        begun(page)
        web_process(live).kill()
        drawn(page)
    assert visits.complaints == []


@pytest.mark.parametrize("blocked", ["sockets", "sockets and streams"])
def test_where_no_socket_opens_it_goes_on_without(visits: Visits, blocked: str) -> None:
    """By server-sent events, and where those are held back as well, by asking."""
    with visits.opened() as page:
        page.add_init_script(
            "WebSocket = class extends EventTarget { constructor() { super();"
            " setTimeout(() => this.onclose({ code: 1006 })); } close() {} }"
        )
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        if "streams" in blocked:
            page.route("**/events*", lambda route: route.fulfill(status=200, body=""))
        page.goto("/")
        draw(page, "a pink heart", steps=30, size=256)
        drawn(page)
        assert any("/events" in url for url in asked)
    assert visits.complaints == []


def test_offline_for_longer_than_the_feed_is_patient(visits: Visits, live: Live) -> None:
    """Not a byte for ten seconds, and by the page's clock for more than a minute.

    What was drawn meanwhile is there when the network is back, and what was asked for is drawn then.
    """
    with Line(live.service.port) as line, visits.opened(base_url=line.url) as page:
        page.clock.install()
        page.goto("/")
        draw(page, "a cyan diamond", steps=LONG, size=512)
        begun(page)
        line.cut()
        page.context.set_offline(True)
        since = time.monotonic()
        live.wait(newest(live)["id"])
        draw(page, "a gray cross")
        page.wait_for_selector(".card.large.sending")
        page.wait_for_timeout(1000 * max(0.0, OFFLINE_S - (time.monotonic() - since)))
        page.clock.fast_forward(SILENCE_MS)
        page.wait_for_selector(".card.small.denoising [aria-label^='a cyan diamond']")
        assert violations(page) == []
        page.context.set_offline(False)
        line.mend()
        drawn(page)
        page.wait_for_selector(".card.small.succeeded [aria-label^='a cyan diamond']")
    assert visits.complaints == []


def test_what_failed_says_why_and_is_tried_again(visits: Visits, live: Live) -> None:
    """Also where it was asked for elsewhere."""
    with visits.opened() as page:
        with live.undrawn():
            live.create(steps=LONG, width=1024, height=1024, timeout_s=1, prompt="a red ring")
            page.goto("/")
            page.wait_for_selector(".card.large.queued")
        page.wait_for_selector(".card.large.failed .failure:has-text('timeout_s')")
        assert violations(page) == []
        page.click("text=Try again")
        page.wait_for_selector(".card.large:not(.failed)")
        page.keyboard.press("Escape")
        page.wait_for_selector(".card.large:is(.canceled, .failed)")
    assert visits.complaints == []


def test_what_is_refused_is_said_at_its_field(visits: Visits) -> None:
    with visits.opened("/") as page:
        page.wait_for_selector(".draw:enabled")
        page.click(".draw")
        assert page.inner_text("#prompt-trouble") == "Say what to draw."
        draw(page, "a red circle", size=250)
        page.wait_for_selector(".extras .trouble")
        assert page.locator(".card.large").count() == 0
        assert violations(page) == []
    assert visits.complaints == []


def test_faster_where_the_model_can(visits: Visits, live: Live, swift: str) -> None:
    """Offered for such models alone, and not carried over to another one."""
    with visits.opened("/") as page:
        page.click(".advanced summary")
        assert page.locator("#acceleration").count() == 0
        page.select_option("#model", swift)
        page.check("#acceleration")
        page.fill("#prompt", "a red circle")
        assert violations(page) == []
        page.click(".draw")
        drawn(page)
        assert newest(live)["acceleration"] == "first_block_cache"
        page.select_option("#model", "builtin")
        assert page.locator("#acceleration").count() == 0
        page.select_option("#model", swift)
        assert not page.is_checked("#acceleration")
    assert visits.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(visits: Visits, scheme: str) -> None:
    """Nothing is wider than the screen."""
    with visits.opened("/", viewport=PHONE, color_scheme=scheme, has_touch=True, is_mobile=True) as page:
        page.wait_for_selector(".examples button img")
        assert too_wide(page) == []
        assert violations(page) == []
        page.tap(".running button")
        page.wait_for_selector("dialog .keys")
        assert violations(page) == []
    assert visits.complaints == []


def test_by_keyboard_only(visits: Visits) -> None:
    """Shape, steps, drawing, help and canceling."""
    with visits.opened("/") as page:
        page.wait_for_selector(".draw:enabled")
        page.keyboard.type("a purple cross")
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowRight")
        assert page.is_checked("input[value=landscape]")
        page.keyboard.press("ArrowLeft")
        tab_to(page, f"{FOCUSED} === 'More settings'")
        page.keyboard.press("Enter")
        tab_to(page, "document.activeElement.id === 'num_inference_steps'")
        page.keyboard.press("End")
        tab_to(page, f"{FOCUSED}.startsWith('Draw')", key="Shift+Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector(".card.large")
        page.keyboard.press("?")
        page.wait_for_selector("dialog .keys")
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog .keys", state="detached")
        page.keyboard.press("Escape")
        page.wait_for_selector(".card.large.canceled")
    assert visits.complaints == []
