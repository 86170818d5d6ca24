"""The pages that people use, in Chromium: what they show works under the rules (CSP) that all of them have."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import redis
from rq import Queue
from rq.job import Job
from rq.registry import FailedJobRegistry
from rq.results import Result
from rq.serializers import JSONSerializer

from imagegen_project.standalone import paths
from tests.support.live import Live

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.asyncio(loop_scope="module")
MOST_PAGES = 150


class Complaints:
    """What Chromium refused to run or could not, and on which page."""

    def __init__(self, page: "Page") -> None:
        self.seen: list[str] = []
        page.on("console", lambda said: self._note(page, said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self._note(page, str(error)))

    def _note(self, page: "Page", text: str) -> None:
        # A status that a page itself shows is no complaint.
        if "Failed to load resource" not in text:
            self.seen.append(f"{page.url}: {text}")


async def log_in(page: "Page", live: Live) -> None:
    """As the service's own user."""
    await page.goto(f"{live.url}/sign-in/?next=/admin/")
    await page.fill("#id_username", "local")
    await page.fill("#id_password", paths.read_secret(live.service.data_dir, "admin_password"))
    await page.click('button:text-is("Sign in")')
    await page.wait_for_url("**/admin/")


@contextmanager
def entry_that_failed(live: Live) -> Iterator[Job]:
    """An entry of RQ's with a result, so that its pages have something to show."""
    with redis.Redis.from_url(paths.redis_url(live.service.data_dir)) as client:
        queue = Queue("downloads", connection=client, serializer=JSONSerializer)
        job = Job.create("nothing.at_all", connection=client, serializer=JSONSerializer, origin=queue.name)
        job.save()
        registry = FailedJobRegistry(queue=queue)
        registry.add(job, ttl=timedelta(hours=1).seconds)
        Result.create_failure(job, ttl=timedelta(hours=1).seconds, exc_string="it failed")
        try:
            yield job
        finally:
            registry.remove(job)
            job.delete()


def kind_of(path: str) -> str:
    """Pages that differ by a key or a number only are of one kind."""
    named = re.sub(r"/(models|checkpoint|generationlora|lora)/[^/]+", r"/\1/*", path)
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\b\d+\b|[0-9a-f]{32}", "*", named)


async def links(page: "Page") -> list[str]:
    """Where a page leads on this service."""
    found: list[str] = await page.eval_on_selector_all("a[href]", "all => all.map((a) => a.href)")
    return [link.partition("#")[0].partition("?")[0] for link in found]


async def test_every_page_runs_its_scripts(page: "Page", live: Live) -> None:
    """All that can be reached by links from the admin, the browsable API and the documentation, one of each kind."""
    live.wait(live.create()["id"])
    complaints = Complaints(page)
    with entry_that_failed(live) as job:
        await log_in(page, live)
        queues = f"{live.url}/admin/django_rq/dashboard/queues"
        starts = ["/admin/", "/api/v1/", "/api/v1/generations", "/api/docs/"]
        waiting = [*(live.url + path for path in starts)]
        visited: dict[str, str] = {}
        policies: dict[str, str] = {}
        while waiting and len(visited) < MOST_PAGES:
            address = waiting.pop(0)
            kind = kind_of(address.removeprefix(live.url))
            if kind in visited or not address.startswith(live.url) or address.endswith("/api/schema"):
                continue
            answer = await page.goto(address)
            assert answer is not None
            visited[kind] = address
            policies[address] = answer.headers.get("content-security-policy", "")
            if "html" in answer.headers.get("content-type", ""):
                waiting += await links(page)
        assert complaints.seen == []
        assert len(visited) < MOST_PAGES
        of_rq = [kind for kind in visited if "/django_rq/" in kind]
        for name in ("details", "finished", "failed", "scheduled", "started", "deferred"):
            assert f"/admin/django_rq/dashboard/queues/*/{name}/" in of_rq
        # The page of an entry is the only one that may run scripts in attributes.
        shown = await page.goto(
            next(url for url in visited.values() if job.id in url and "results" not in url)
        )
        assert shown is not None
        assert "script-src-attr 'unsafe-inline'" in shown.headers["content-security-policy"]
        await page.click("tr.rq-clickable td")
        await page.wait_for_url("**/results/**")
        other = await page.goto(queues.replace("queues", ""))
        assert other is not None
        assert "script-src-attr" not in other.headers["content-security-policy"]
        assert complaints.seen == []
        # Styles in pages are RQ's alone.
        assert "'unsafe-inline'" in other.headers["content-security-policy"]
        for path in starts:
            assert "default-src" in policies[live.url + path]
            assert "unsafe" not in policies[live.url + path]


async def test_the_documentation_tries_requests_out(page: "Page", live: Live) -> None:
    """Operations open, take a request and show its answer, and the way in opens, without a style in the page."""
    await log_in(page, live)
    complaints = Complaints(page)
    await page.goto(f"{live.url}/api/docs/")
    operation = page.locator("#operations-tag-me, .opblock-get", has_text="/api/v1/me").first
    await operation.locator(".opblock-summary-control").click()
    await operation.locator(".try-out__btn").click()
    await operation.locator("button.execute").click()
    await operation.locator(".live-responses-table .response-col_status", has_text="200").wait_for()
    await page.locator(".authorize").first.click()
    await page.wait_for_selector(".dialog-ux .modal-ux")
    assert complaints.seen == []


async def test_a_list_of_entries_can_be_acted_on(page: "Page", live: Live) -> None:
    """One click marks all of them: the list's script runs."""
    with entry_that_failed(live):
        await log_in(page, live)
        complaints = Complaints(page)
        await page.goto(f"{live.url}/admin/django_rq/dashboard/")
        await page.click("a[href*='/failed/']:has-text('1')")
        await page.click("#action-toggle")
        marked: Any = await page.eval_on_selector_all(
            "input.action-select", "all => all.map((one) => one.checked)"
        )
        assert marked == [True]
        assert complaints.seen == []


async def test_the_browsable_pages_log_out(page: "Page", live: Live) -> None:
    """By a button that needs no script; the page then asks who is there, and comes back to where one was."""
    await log_in(page, live)
    complaints = Complaints(page)
    await page.goto(f"{live.url}/api/v1/generations")
    await page.click("text=Sign out")
    await page.wait_for_url("**/sign-in/")
    await page.goto(f"{live.url}/api/v1/generations")
    assert "401" in await page.inner_text(".answered")
    await page.click(".note a:has-text('Sign in')")
    await page.wait_for_url("**/sign-in/?next=/api/v1/generations")
    assert complaints.seen == []


FETCH = """async ([url, token, more]) => {
  try {
    const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json", "X-Stainless-Lang": "js" };
    const answer = await fetch(url, { headers, ...more });
    return { status: answer.status, job: answer.headers.get("X-Job-Id"), text: await answer.text() };
  } catch (error) {
    return { refused: String(error) };
  }
}"""


@contextmanager
def another_site(port: int) -> Iterator[None]:
    """Serves a page on this machine, which is its own site under each name of the machine."""
    with ThreadingHTTPServer(("127.0.0.1", port), SimpleHTTPRequestHandler) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        try:
            yield
        finally:
            server.shutdown()
            serving.join()


async def test_another_sites_page_may_call_the_api_with_a_token(page: "Page", live: Live) -> None:
    """A site that was named reads answers, refusals and streams; another one nothing, and no site the pages."""

    async def fetched(path: str, token: str = live.token, **more: Any) -> dict[str, Any]:
        result: dict[str, Any] = await page.evaluate(FETCH, [live.url + path, token, more])
        return result

    drawn = {"method": "POST", "body": '{"prompt": "a red circle", "size": "256x256"}'}
    with another_site(urlsplit(live.site).port or 0):
        await page.goto(live.site)
        answer = await fetched("/v1/images/generations", **drawn)
        assert answer.get("status") == 200, answer
        assert len(answer["job"]) == 36
        assert (await fetched("/api/v1/generations", token="img_wrong"))["status"] == 401  # noqa: S106
        assert "event: succeeded" in (await fetched(f"/api/v1/generations/{answer['job']}/events"))["text"]
        for path in ("/sign-in/", "/health"):
            assert "refused" in await fetched(path)
        await page.goto(live.site.replace("localhost", "127.0.0.1"))
        assert "refused" in await fetched("/v1/images/generations", **drawn)
