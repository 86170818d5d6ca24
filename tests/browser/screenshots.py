"""Pictures of the pages and their states, on a desktop and a phone, light and dark: `make screenshots`.

They are made by a service of their own and put into `docs/pictures/`.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from signal import SIGTERM
from typing import TYPE_CHECKING, Any

from PIL import Image

from tests.browser.visits import DESKTOP, PHONE, Visits, chromium_path, until
from tests.support.live import Live
from tests.support.service import REPOSITORY, Service

if TYPE_CHECKING:
    from playwright.sync_api import Page

FOLDER = REPOSITORY / "docs" / "pictures"
PROMPTS = (
    *(
        "a large red heart in the centre on a white background",
        "a large purple diamond on a yellow background",
    ),
    *(
        "a medium red triangle above a large blue square on a white background",
        "a large pink star on a blue background",
    ),
    *(
        "a large green triangle in the centre on a black background",
        "a large orange square on a cyan background",
    ),
    *("a large yellow star in the centre on a purple background", "a large white heart on a red background"),
)
QUALITY = 82


def examples(page: "Page") -> None:
    """What a visitor sees first."""
    page.goto("/")
    page.wait_for_selector(".examples img")


def drawing(page: "Page") -> None:
    """A picture on its way, with others behind it."""
    page.goto("/")
    page.wait_for_selector(".draw:enabled")
    for prompt in ("a large orange heart on a blue background", PROMPTS[0]):
        page.fill("#prompt", prompt)
        if page.locator("#num_inference_steps").is_hidden():
            page.click(".advanced summary")
        page.fill("#num_inference_steps", "40")
        page.click(".draw")
        page.wait_for_selector(".card.large:is(.queued, .loading, .denoising)")
    page.click(".advanced summary")
    page.click(".strip li:last-child button.frame")
    until(page, "Number(document.querySelector('.card.large progress')?.value) > 55")


def drawn(page: "Page") -> None:
    """The same when it is there."""
    page.wait_for_selector(".card.large.succeeded .final")
    page.wait_for_selector(".card.small.succeeded + .card.small.succeeded")
    until(page, "document.querySelector('.card.large img').naturalWidth > 0")


def gallery(page: "Page") -> None:
    """One's pictures."""
    page.goto("/gallery/")
    page.wait_for_selector(".tile img")


def picture(page: "Page") -> None:
    """One of them, with code that draws it."""
    page.goto("/gallery/")
    page.click(".tile:last-child a")
    page.wait_for_selector(".facts")
    page.click("summary:has-text('As code')")


def painting(page: "Page") -> None:
    """A part of it painted over."""
    page.click("text=Repaint a part")
    until(page, "document.querySelector('.easel canvas')?.width > 300")
    page.click(".places button:nth-of-type(3)")


def account(page: "Page") -> None:
    """Tokens and usage."""
    page.goto("/account/")
    page.wait_for_selector(".quota")


STATES: tuple[Callable[["Page"], None], ...] = (
    *(examples, drawing, drawn, gallery, picture, painting, account),
)


def shot(page: "Page", name: str) -> None:
    """Keeps what is on the screen."""
    page.wait_for_load_state("networkidle")
    page.evaluate("Promise.all([...document.images].map((one) => one.decode().catch(() => {})))")
    with Image.open(BytesIO(page.screenshot(animations="disabled"))) as picture:
        picture.convert("RGB").save(FOLDER / f"{name}.webp", quality=QUALITY, method=6)
    sys.stdout.write(f"{name}\n")
    sys.stdout.flush()


def looks() -> Iterator[tuple[str, dict[str, Any]]]:
    """Screens and colours."""
    phone = {"viewport": PHONE, "has_touch": True, "is_mobile": True, "device_scale_factor": 1}
    for screen, options in (("desktop", {"viewport": DESKTOP}), ("phone", phone)):
        for scheme in ("light", "dark"):
            yield f"{screen}-{scheme}", options | {"color_scheme": scheme}


def main() -> None:
    """Makes them all."""
    from playwright.sync_api import sync_playwright

    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder) / "data")
        try:
            service.wait_ready()
            live = Live(service)
            with sync_playwright() as started:
                visits = Visits(
                    started.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"]), live
                )
                for prompt in PROMPTS:
                    live.wait(live.create(prompt=prompt, width=512, height=512, steps=8, seed=1)["id"])
                for look, options in looks():
                    with visits.opened("/sign-in/", state=None, **options) as page:
                        shot(page, f"sign-in-{look}")
                    with visits.opened(**options) as page:
                        for state in STATES:
                            state(page)
                            shot(page, f"{state.__name__}-{look}")
        finally:
            service.end(SIGTERM)


if __name__ == "__main__":
    main()
