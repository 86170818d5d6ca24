"""The API's pages and the admin, as people use them: forms by hand, verbs by buttons, numbers that are the rows'."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from rq.results import Result

from models_registry import builtin
from tests.browser.test_pages import entry_that_failed
from tests.browser.visits import DESKTOP, PHONE, Visits, too_wide, torn, until, violations
from tests.support.live import Live

if TYPE_CHECKING:
    from playwright.sync_api import Page

OUTLINE = str(builtin.ADAPTERS / "outline.safetensors")
QUICK = {"prompt": "a red circle", "width": "256", "height": "256", "num_inference_steps": "2"}
ADMIN_LISTS = (
    *("generation/generation", "generation/generatedimage", "generation/worker", "generation/workercommand"),
    *("models_registry/checkpoint", "loras/lora", "auth/user", "accounts/localtoken", "admin/logentry"),
)
QUEUES = "/admin/django_rq/dashboard/"
# The hour that the dashboard begins with.
IN_THE_HOUR = "finished_at >= date_trunc('minute', now()) - interval '1 hour'"


@pytest.fixture(autouse=True)
def _no_complaints(visits: Visits) -> Iterator[None]:
    """No page may leave an error in the console, or break the rules of its policy."""
    visits.complaints.clear()
    yield
    assert visits.complaints == []


@pytest.fixture(scope="module")
def job(live: Live) -> dict[str, Any]:
    """A finished picture, with a prompt that does not fit a column."""
    return live.wait(live.create(prompt="a red circle beside a large blue square and a green star")["id"])


def fill(page: "Page", method: str = "post", **fields: str) -> None:
    """Fills a form of the API's pages, and opens what is folded; files by their paths."""
    for name, value in fields.items():
        field = page.locator(f"#{method}-{name}")
        if not field.is_visible():
            page.click(f"section.body details:has(#{method}-{name}) > summary")
        if field.evaluate("(one) => one.tagName") == "SELECT":
            field.select_option(value)
        elif field.get_attribute("type") == "file":
            field.set_input_files(value)
        else:
            field.fill(value)


def send(page: "Page", method: str = "POST", button: str = "section.body > form button") -> str:
    """Sends the form of a method, or what another button sends; the status that the next page shows."""
    page.evaluate("document.querySelector('main').dataset.before = ''")
    page.click(f"{button}:text-is('{method}')")
    return page.inner_text("main:not([data-before]) .answered strong")


def styles(page: "Page", selector: str, name: str) -> set[str]:
    """A style of all that a selector finds, which is something."""
    script = f"(all) => all.map((one) => getComputedStyle(one).{name})"
    return set(page.locator(selector).evaluate_all(script))


def clean(page: "Page", what: str) -> None:
    """Nothing is cut off on a desktop and on a phone, and nothing is hard to read or to reach."""
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]  # a dictionary with two numbers
    assert too_wide(page) == [], f"{what} on a phone"
    page.set_viewport_size(DESKTOP)  # type: ignore[arg-type]  # as above
    assert too_wide(page) == [], what
    assert violations(page) == [], what


def test_a_picture_by_the_apis_own_form(visits: Visits) -> None:
    """It opens on a form; what is wrong is said at its field and the rest kept; the picture is shown."""
    with visits.opened("/api/v1/generate/txt2img") as page:
        assert "imagegen" in page.title()
        clean(page, "a form")
        fill(page, **QUICK | {"width": "100"})
        assert send(page) == "400"
        assert page.locator("#post-width[aria-invalid]").count() == 1
        assert page.input_value("#post-prompt") == "a red circle"
        clean(page, "a form with what is wrong")
        fill(page, width="256", loras='[{"lora": "outline", "scale": 0.5}]')
        assert send(page) == "200"
        page.wait_for_selector(".pictures img")
        until(page, "document.querySelector('.pictures img').naturalWidth > 0")
        clean(page, "a picture")
        page.click(".ways a:has-text('Self')")
        page.click(".ways button:has-text('Retry')")
        page.wait_for_selector(".answered:has-text('202')")
        page.click("text=Go to what was made")
        page.wait_for_selector("h2:has-text('GET /api/v1/generations/')")


def test_every_verb_of_the_apis_pages(visits: Visits, live: Live) -> None:
    """JSON, PATCH and DELETE, which a browser's forms do not know."""
    with visits.opened("/api/v1/generations") as page:
        page.click("text=The same as JSON")
        body = '{"prompt": "a blue square", "width": 512, "height": 512, "num_inference_steps": 100}'
        page.fill("#post-json", body)
        assert send(page, button="details.raw button") == "202"
        page.click("text=Go to what was made")
        page.click(".ways button:has-text('Cancel')")
        page.wait_for_selector(".answered:has-text('200')")
        page.click(".ways a:has-text('Self')")
        page.check("#patch-favorite")
        assert send(page, "PATCH") == "200"
        assert live.http.get("/api/v1/generations?limit=1").json()["results"][0]["favorite"] is True
        page.on("dialog", lambda dialog: dialog.accept())
        page.click(".ways button:has-text('Delete')")
        page.wait_for_selector(".answered:has-text('204')")
        page.goto("/api/v1/generations?status=canceled")
        assert "a blue square" not in page.inner_text("main")
        clean(page, "a list with its filters")


def test_every_other_form_is_posted_by_hand(
    visits: Visits, live: Live, job: dict[str, Any], tmp_path: Any
) -> None:
    """With as little as each asks for; a token is made for the page's session."""
    picture = tmp_path / "picture.png"
    picture.write_bytes(live.picture(job["id"]))
    one = f"/api/v1/generations/{job['id']}"
    forms: dict[str, tuple[dict[str, str], str]] = {
        "/api/v1/generate/img2img": (QUICK | {"image": str(picture), "strength": "0.5"}, "200"),
        "/api/v1/models/load": ({"model": "builtin"}, "200"),
        "/api/v1/models/unload": ({"model": "builtin"}, "200"),
        "/api/v1/loras/upload": (
            {"file": OUTLINE, "name": "by-hand", "trigger_words": "outlined, thin"},
            "202",
        ),
        "/api/v1/loras/load": ({"lora_path": "by hand"}, "400"),
        "/api/v1/loras/unload": ({"lora": "by-hand"}, "204"),
        "/api/v1/png-info": ({"image": str(picture)}, "200"),
        "/api/v1/tokens": ({"name": "by hand"}, "201"),
        "/api/v1/tickets": ({}, "201"),
        "/api/v1/webhook-secret": ({}, "201"),
        f"{one}/shares": ({}, "201"),
        f"{one}/replay": ({}, "202"),
    }
    with visits.opened() as page:
        for path, (fields, status) in forms.items():
            page.goto(path)
            fill(page, **fields)
            assert send(page) == status, (path, page.inner_text("main")[:2000])
        clean(page, "an answer")
    rows = {row["name"]: row for row in live.http.get("/api/v1/loras?limit=100").json()["results"]}
    assert rows["by-hand"]["trigger_words"] == ["outlined", "thin"]


def test_the_apis_pages_fit(visits: Visits, job: dict[str, Any]) -> None:
    with visits.opened() as page:
        for path in ("/api/v1/", f"/api/v1/generations/{job['id']}", "/api/v1/models", "/nothing-there"):
            page.goto(path)
            clean(page, path)


def test_a_lora_is_uploaded_in_the_admin(visits: Visits, live: Live) -> None:
    """One sees it being checked, and then valid; it is disabled and enabled by buttons that say what they did."""
    with visits.opened("/admin/loras/lora/add/") as page:
        clean(page, "an upload's page")
        page.fill("#id_name", "by-staff")
        page.set_input_files("#id_file", OUTLINE)
        page.click("input[name=_continue]")
        page.wait_for_selector(".messagelist .success")
        page.wait_for_selector(".readonly .state:has-text('present and valid')")
        page.click(".verbs button:text-is('Disable')")
        page.wait_for_selector(".messagelist :text('Disabled: by-staff')")
        page.click(".verbs button:text-is('Enable')")
        page.wait_for_selector(".messagelist :text('Enabled: by-staff')")
        clean(page, "a LoRA's page")
    rows = {row["name"]: row for row in live.http.get("/api/v1/loras?limit=100").json()["results"]}
    assert rows["by-staff"]["enabled"] is True


def test_jobs_are_canceled_and_retried_in_the_admin(visits: Visits, live: Live) -> None:
    """By buttons on the job's page, which shows by itself how far it is."""
    job = live.occupy()
    live.wait(job["id"], "running")
    with visits.opened(f"/admin/generation/generation/{job['id']}/change/") as page:
        page.wait_for_selector(".readonly .state.running")
        page.click(".verbs button:text-is('Cancel')")
        page.wait_for_selector(".messagelist :text('Canceled')")
        page.wait_for_selector(".readonly .state.canceled")
        page.click(".verbs button:text-is('Retry')")
        page.wait_for_selector(".messagelist :text('Made anew')")
        clean(page, "a job's page")
    again = live.http.get("/api/v1/generations?limit=1").json()["results"][0]
    assert again["retry_of"] == job["id"]
    live.http.post(f"/api/v1/generations/{again['id']}/cancel")
    live.wait(again["id"])


def test_the_default_is_switched_by_one_click(visits: Visits, live: Live) -> None:
    """And back: the model that ships is what other tests draw with."""
    with visits.opened() as page:
        for model in ("sd-xl-base", "builtin"):
            page.goto(f"/admin/models_registry/checkpoint/{model}/change/")
            page.click(".verbs button:text-is('Make it the default')")
            page.wait_for_selector(f".messagelist :text('The default now: {model}')")
            rows = live.http.get("/api/v1/models").json()["data"]
            assert [one["id"] for one in rows if one["is_default"]] == [model]
        clean(page, "a model's page")


def test_the_admins_lists_fit(visits: Visits, job: dict[str, Any]) -> None:
    """No column is cut off, and nothing is hard to read or to reach."""
    with visits.opened() as page:
        for name in ADMIN_LISTS:
            page.goto(f"/admin/{name}/")
            clean(page, name)


def test_the_admin_can_be_read_in_the_dark(visits: Visits, job: dict[str, Any]) -> None:
    one = f"/admin/generation/generation/{job['id']}"
    with visits.opened(color_scheme="dark") as page:
        for path in (
            *("/admin/", "/admin/generation/generation/", "/admin/generation/worker/", f"{one}/change/"),
            *(f"{one}/history/", f"{one}/delete/", "/admin/models_registry/checkpoint/builtin/change/"),
            *("/admin/loras/lora/add/", "/admin/auth/user/add/", "/admin/password_change/"),
        ):
            page.goto(path)
            page.wait_for_selector("body:not(:has(#dashboard[aria-busy=true]))")
            assert violations(page) == [], path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_queues_pages_can_be_read(visits: Visits, live: Live, scheme: str) -> None:
    """RQ's own: its queues, their entries, one of these, and what came of it each time."""
    with entry_that_failed(live) as entry, visits.opened(QUEUES, color_scheme=scheme) as page:
        for end in (Result.Type.SUCCESSFUL, Result.Type.RETRIED):
            Result.create(entry, end, ttl=3600)
        assert violations(page) == [], "queues"
        for link in ("a[href*='/failed/']:has-text('1')", f"a[href*='{entry.id}']", "a[href*='/results/']"):
            page.goto(page.locator(link).first.get_attribute("href") or "")
            assert violations(page) == [], link


def test_the_dashboards_numbers_are_the_rows(visits: Visits, live: Live, job: dict[str, Any]) -> None:
    """And go on by themselves."""
    service = live.service
    with visits.opened("/admin/") as page:
        page.wait_for_selector("#dashboard[aria-busy=false]")
        clean(page, "the dashboard")
        page.set_viewport_size(PHONE)  # type: ignore[arg-type]  # a dictionary with two numbers
        assert torn(page, "#dashboard .scroll :is(th, td)") == [], "words that would fit"
        assert page.locator("#workers td").nth(3).get_attribute("data-heading") == "Device"
        page.set_viewport_size(DESKTOP)  # type: ignore[arg-type]  # as above
        live.wait(live.create()["id"])
        for status in ("succeeded", "failed", "canceled", "queued", "running"):
            in_time = "" if status in ("queued", "running") else f" AND {IN_THE_HOUR}"
            counted = f"SELECT count(*) FROM generation_generation WHERE status = '{status}'{in_time}"
            ((wanted,),) = service.sql(counted)
            until(page, f"document.querySelector('[data-tile={status}]').dataset.value === '{wanted}'")
            if status == "succeeded":
                succeeded = wanted
        assert page.locator("[data-tile=workers]").get_attribute("data-value") == "1"
        assert page.locator("#ends canvas").count() == 1
        page.click("[data-window=week]")
        page.wait_for_selector("[data-window=week][aria-pressed=true]")
        page.click("[data-window=hour]")
        until(page, f"document.querySelector('[data-tile=succeeded]').dataset.value === '{succeeded}'")
        page.click("[data-tile=succeeded] a")
        page.wait_for_selector("#result_list")
        assert page.inner_text(".paginator").strip().startswith(f"{succeeded} ")


def test_a_worker_is_drained_and_another_comes(visits: Visits, live: Live) -> None:
    """The one that is told ends once its job has, and the service starts the next: the list shows it by itself."""
    with visits.opened("/admin/generation/worker/") as page:
        page.click("#result_list tbody tr:has(.state:not(.silent)) th a")
        clean(page, "a worker's page")
        name = page.inner_text(".field-name .readonly")
        page.click(".verbs button:has-text('Drain')")
        page.wait_for_selector(f".messagelist :text('Told to drain: {name}')")
        page.goto("/admin/generation/worker/")
        page.wait_for_selector(f"#result_list:not(:has-text('{name}')) .state.idle")
    assert live.wait(live.create()["id"])["status"] == "succeeded"


def test_swagger_tries_a_request_by_the_pages_session(visits: Visits) -> None:
    """An example runs as it stands, and the command beside it holds nothing of the session; Pico spoils none of it."""
    with visits.opened("/api/docs/") as page:
        page.wait_for_selector(".opblock-summary")
        assert [one for one in violations(page) if one.startswith("color-contrast")] == []
        page.click(".opblock-summary:has-text('/api/v1/tickets')")
        page.click(".opblock.is-open .try-out__btn")
        page.click(".opblock.is-open button.execute")
        page.wait_for_selector(".live-responses-table .response-col_status:has-text('201')")
        assert "csrf" not in page.inner_text(".curl-command .curl").lower()
        assert styles(page, ".info .title pre", "backgroundColor") == {"rgba(0, 0, 0, 0)"}
        assert styles(page, "#swagger-ui .tab li", "listStyleType") == {"none"}
        page.set_viewport_size(PHONE)  # type: ignore[arg-type]  # a dictionary with two numbers
        assert too_wide(page) == []
