"""A model from its Hub address to a picture, as somebody at a browser sees it: saved, fetched with percent, drawn."""

import re
from collections.abc import Iterator

import pytest

from tests.browser.visits import OPTIONS, Visits, chromium_path, drawn, violations
from tests.support.hub import HubDouble
from tests.support.hub_repository import HubRepository
from tests.support.live import SIDE, Hubbed

SOME_PERCENT = re.compile(r"\b[1-9]\d? %")


@pytest.fixture
def pages(hubbed: Hubbed) -> Iterator[Visits]:
    """Pages of the service that has a Hub, signed in."""
    executable = chromium_path()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=executable, args=OPTIONS)
        yield Visits(browser, hubbed)
        browser.close()


def test_a_model_is_added_by_its_address_and_fetched_with_percent(
    hubbed: Hubbed, live_hub: HubDouble, pages: Visits
) -> None:
    """The page that waits for the picture and the admin's page both say how much has come; a LoRA comes by a form."""
    repository = HubRepository(live_hub, "tiny/shown", hubbed.repository("sd1").folder)
    first, *others = [path for path in repository.paths if path.endswith(".safetensors")]
    repository.faults = {first: "late"} | dict.fromkeys(others, "held")
    with pages.opened("/admin/models_registry/checkpoint/add/") as staff, pages.opened() as page:
        staff.fill("#id_address", f"{live_hub.url}/tiny/shown")
        staff.click("input[value=Read]")
        staff.wait_for_selector(".messagelist :text('Read from the Hub: StableDiffusionPipeline')")
        assert violations(staff) == []
        for name in ("default_width", "default_height", "min_size"):
            staff.fill(f"#id_{name}", str(SIDE))
        staff.click("input[name=_save]")
        staff.wait_for_selector(".messagelist .success")
        page.goto("/")
        page.select_option("#model", "shown")
        page.wait_for_selector("#model-state:has-text('not here yet')")
        page.fill("#prompt", "a red circle")
        page.click(".draw")
        page.get_by_text(re.compile(f"Fetching the model: {SOME_PERCENT.pattern}")).first.wait_for()
        assert violations(page) == []
        staff.goto("/admin/models_registry/checkpoint/shown/change/")
        staff.locator(".field-disk .readonly", has_text=SOME_PERCENT).wait_for()
        assert staff.locator(".field-disk progress").count() == 1
        repository.released.set()
        drawn(page)
        staff.wait_for_selector(".field-where .state.present")
        page.goto("/api/v1/loras/load")
        page.fill("#post-lora_path", "org/outline")
        page.fill("#post-name", "from-hub")
        page.click("section.body > form button")
        page.wait_for_selector(".answered:has-text('200')")
    assert hubbed.http.get("/api/v1/models/shown").json()["state"] == "present"
    assert pages.complaints == []
