"""What the pages give to developers and strangers: code that draws the same, tokens, links, pictures' settings."""

import os
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.browser.test_pictures import hand_over
from tests.browser.visits import PHONE, Visits, too_wide, violations
from tests.support.live import Live
from tests.support.pictures import text_of

if TYPE_CHECKING:
    from playwright.sync_api import Page

RUNNERS = {
    "curl": ("snippet.sh", ["bash", "-e"]),
    "Python": ("snippet.py", [sys.executable]),
    "JavaScript": ("snippet.mjs", ["node"]),
    "OpenAI": ("snippet.py", [sys.executable]),
}


@pytest.fixture(autouse=True)
def _no_complaints(visits: Visits) -> None:
    visits.complaints.clear()


@pytest.fixture(scope="module")
def jobs(live: Live, editor: str) -> dict[str, dict[str, Any]]:
    """A picture from text with quotes and a LoRA, one from a picture, and one that edits two."""
    text = live.wait(
        live.create(
            prompt='it\'s a "red" circle, été \U0001f600', reproducible=True, loras=[{"lora": "outline"}]
        )["id"]
    )
    start = live.picture(text["id"])
    answer = live.http.post(
        "/api/v1/generations",
        data={"prompt": "a blue circle", "steps": "4", "strength": "0.5", "reproducible": "true"},
        files={"image": ("start.png", start, "image/png")},
    )
    edit = {"prompt": "blue", "model": editor, "width": 64, "height": 64}
    pictures = [text_of(start)] * 2
    return {
        "txt2img": text,
        "img2img": live.wait(answer.json()["id"]),
        "edit": live.wait(live.create(images=pictures, reproducible=True, **edit)["id"]),
    }


def code(page: "Page", label: str) -> str:
    """What is shown to be copied."""
    if page.locator(".code").get_attribute("open") is None:
        page.click("summary:has-text('As code')")
    page.click(f".tab:text-is('{label}')")
    return page.inner_text(".code pre")


def pixels(data: bytes) -> bytes:
    """What is drawn, without what is said about it."""
    with Image.open(BytesIO(data)) as picture:
        return picture.convert("RGB").tobytes()


@pytest.mark.parametrize("kind", ["txt2img", "img2img", "edit"])
def test_code_that_is_copied_draws_the_same_pixels(
    visits: Visits, live: Live, jobs: dict[str, dict[str, Any]], tmp_path: Path, kind: str
) -> None:
    """As it stands, with a token in the environment."""
    job = jobs[kind]
    drawn = pixels(live.picture(job["id"]))
    with visits.opened(f"/gallery/{job['id']}/") as page:
        snippets = {label: code(page, label) for label in RUNNERS}
        assert violations(page) == []
    assert live.token not in "".join(snippets.values())
    for label, (name, runner) in RUNNERS.items():
        if shutil.which(runner[0]) is None:
            continue
        folder = tmp_path / label
        folder.mkdir()
        (folder / name).write_text(snippets[label])
        done = subprocess.run(
            [*runner, name],
            cwd=folder,
            env=os.environ | {"IMAGEGEN_TOKEN": live.token},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (label, done.stderr, snippets[label])
        made = [file for file in folder.iterdir() if file.name.startswith("picture")]
        assert [pixels(file.read_bytes()) for file in made] == [drawn], label
    assert visits.complaints == []


def test_a_token_is_made_used_and_revoked(visits: Visits, live: Live) -> None:
    with visits.opened("/account/") as page:
        page.wait_for_selector(".quota")
        page.wait_for_selector(".table strong:text-is('demo')")
        page.fill(".account form input", "my script")
        page.click("text=New token")
        token = page.input_value(".once input")
        page.wait_for_selector(".table strong:has-text('my script')")
        assert violations(page) == []
        headers = {"Authorization": f"Bearer {token}"}
        assert live.http.get("/api/v1/me", headers=headers).status_code == 200
        page.click(".table li:has-text('my script') button")
        page.wait_for_selector(".table strong:has-text('my script')", state="detached")
        assert live.http.get("/api/v1/me", headers=headers).status_code == 401
        page.click("text=New signing secret")
        assert page.input_value(".once:last-child input").startswith("whsec_")
        assert violations(page) == []
    assert visits.complaints == []


def test_a_link_opens_for_a_stranger_until_it_is_revoked(
    visits: Visits, jobs: dict[str, dict[str, Any]]
) -> None:
    with visits.opened(f"/gallery/{jobs['txt2img']['id']}/") as page:
        page.click("text=Share")
        page.click("text=Make a link and copy it")
        page.wait_for_selector("dialog [role=status]:has-text('on the clipboard')")
        link = page.input_value(".shares input")
        assert violations(page) == []
        with visits.opened(state=None, viewport=PHONE) as stranger:
            stranger.goto(link)
            stranger.wait_for_selector("main img")
            assert stranger.evaluate("document.querySelector('main img').decode().then(() => true)")
            assert (too_wide(stranger), violations(stranger)) == ([], [])
            page.click("button:text-is('Revoke')")
            page.wait_for_selector(".shares li", state="detached")
            answer = stranger.goto(link)
            assert answer is not None
            assert answer.status == 404
            assert (too_wide(stranger), violations(stranger)) == ([], [])
    assert visits.complaints == []


def test_a_picture_of_ours_that_is_dropped_gives_its_settings(
    visits: Visits, live: Live, jobs: dict[str, dict[str, Any]]
) -> None:
    """And is one click away from being started from."""
    job = jobs["txt2img"]
    with visits.opened("/") as page:
        hand_over(page, "drop", live.picture(job["id"]))
        page.wait_for_selector(".notice:has-text('settings')")
        assert page.input_value("#prompt") == job["prompt"]
        page.click(".advanced summary")
        assert page.input_value("#seed") == str(job["seed"])
        assert page.locator("#style-outline").count() == 1
        page.click("text=Start from the picture instead")
        page.wait_for_selector(".start img")
        assert violations(page) == []
    assert visits.complaints == []


def test_a_form_of_the_api_says_that_no_page_answered(visits: Visits) -> None:
    """And stays as it is, with what was written into it."""
    with visits.opened("/api/v1/generations/delete") as page:
        page.click(".raw summary")
        page.fill(".raw textarea", '{"ids": []}')
        page.context.set_offline(True)
        page.click(".raw button")
        page.wait_for_selector(".raw [role=alert]")
        assert page.input_value(".raw textarea") == '{"ids": []}'
        page.context.set_offline(False)
        page.click(".raw button")
        page.wait_for_selector(".answered.bad")
    assert visits.complaints == []
