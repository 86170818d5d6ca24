"""What is made of pictures: the gallery, one picture's page, and pictures that are brought along."""

import base64
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.browser.visits import (
    DESKTOP,
    FOCUSED,
    PHONE,
    Visits,
    drawn,
    newest,
    tab_to,
    too_wide,
    until,
    violations,
)
from tests.support.live import Live

if TYPE_CHECKING:
    from playwright.sync_api import Page

MANY = 200
# Whether there is paint at a place on the canvas's diagonal.
PAINTED = "((at) => document.querySelector('.easel canvas').getContext('2d').getImageData(at, at, 1, 1).data[3] > 0)"
COPIES = """
from uuid_utils.compat import uuid7
from generation.models import GeneratedImage, Generation
row = Generation.objects.get(pk="{id}")
image = row.images.get()
rows, images = [], []
for number in range({many}):
    fields = {{f.attname: getattr(row, f.attname) for f in Generation._meta.concrete_fields if not f.generated}}
    fields |= {{"id": uuid7(), "prompt": f"copy {{number}}"}}
    rows.append(Generation(**fields))
    of = {{f.attname: getattr(image, f.attname) for f in GeneratedImage._meta.concrete_fields if f.attname != "id"}}
    images.append(GeneratedImage(**of | {{"generation_id": fields["id"]}}))
Generation.objects.bulk_create(rows)
GeneratedImage.objects.bulk_create(images)
"""
# A busy browser tells of what was before it tells of what is, in one call.
LATE_NEWS = """
const Real = IntersectionObserver;
window.IntersectionObserver = class extends Real {
  constructor(told, options) {
    super((entries, self) => told([{ isIntersecting: false }, ...entries], self), options);
  }
};
"""
# Hands the page a file as a paste or a drop does.
HAND_OVER = """([kind, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "picture", { type }));
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true })
    : new DragEvent("drop", { dataTransfer: transfer, bubbles: true });
  document.body.dispatchEvent(event);
}"""


@pytest.fixture(autouse=True)
def _no_complaints(visits: Visits) -> None:
    visits.complaints.clear()


@pytest.fixture(scope="module")
def job(live: Live) -> dict[str, Any]:
    """A finished picture."""
    return live.wait(live.create(prompt="a red circle", reproducible=True)["id"])


def hand_over(page: "Page", kind: str, data: bytes, media_type: str = "image/png") -> None:
    page.wait_for_selector(".draw:enabled")
    page.evaluate(HAND_OVER, [kind, media_type, base64.b64encode(data).decode()])


def plain(colour: str) -> bytes:
    file = BytesIO()
    Image.new("RGB", (256, 256), colour).save(file, "PNG")
    return file.getvalue()


def first_pixel(live: Live, url: str) -> Any:
    """The colour of a plain picture of the service's."""
    with Image.open(BytesIO(live.http.get(url).content)) as picture:
        return picture.getpixel((0, 0))


def test_a_pasted_picture_is_started_from(visits: Visits) -> None:
    with visits.opened("/") as page:
        hand_over(page, "paste", plain("blue"))
        page.wait_for_selector(".start img")
        assert violations(page) == []
        page.fill("#prompt", "a red circle")
        page.click(".advanced summary")
        page.fill("#num_inference_steps", "2")
        page.click(".draw")
        drawn(page)
    assert newest(visits.live)["kind"] == "img2img"
    assert visits.complaints == []


def test_pictures_are_edited_by_a_model_that_does(visits: Visits, live: Live, editor: str) -> None:
    """As many as it takes, by words alone; what is made of the result is made of the same pictures."""
    with visits.opened("/") as page:
        page.select_option("#model", editor)
        for number, colour in enumerate(("blue", "red", "green"), start=1):
            hand_over(page, "paste", plain(colour))
            until(page, f"document.querySelectorAll('.edited-pictures img').length === {number}")
        page.click("[aria-label='Without picture 2']")
        assert page.locator("#strength").count() == page.locator("input[name=width]").count() == 0
        assert violations(page) == []
        page.click(".draw")
        assert page.inner_text("#prompt-trouble") == "Say what to change."
        page.fill("#prompt", "make it yellow")
        page.click(".draw")
        drawn(page)
        made = newest(live)
        assert (made["kind"], made["model"], made["strength"]) == ("edit", editor, None)
        colours = [first_pixel(live, url) for url in made["urls"]["inputs"]]
        assert colours == [(0, 0, 255), (0, 128, 0)]
        page.click(".card.large a.action:has-text('Open')")
        page.wait_for_selector(".action:has-text('Edit this')")
        assert page.locator("text=Repaint a part").count() == 0
        assert violations(page) == []
        page.click("text=More like this")
        until(page, "document.querySelectorAll('.card.large.succeeded .batch img').length === 4")
        varied = newest(live)
        assert (varied["kind"], varied["seed"]) == ("edit", (made["seed"] + 1) % 2**32)
        assert [first_pixel(live, url) for url in varied["urls"]["inputs"]] == colours
    assert visits.complaints == []


@pytest.mark.parametrize("by", ["mouse", "touch"])
def test_a_part_is_painted_and_drawn_anew(visits: Visits, live: Live, job: dict[str, Any], by: str) -> None:
    """Only what was painted is in the mask; a stroke can be taken back."""
    phone = {"viewport": PHONE, "has_touch": True, "is_mobile": True} if by == "touch" else {}
    with visits.opened(f"/gallery/{job['id']}/", **phone) as page:
        page.click("text=Repaint a part")
        canvas = page.locator(".easel canvas")
        page.wait_for_selector(".brushes button:has-text('Undo'):disabled")
        until(page, "document.querySelector('.easel canvas').width === 256")
        assert violations(page) == []
        box = canvas.bounding_box()
        assert box is not None
        for part in (0.75, 0.25):
            at = (box["x"] + box["width"] * part, box["y"] + box["height"] * part)
            if by == "touch":
                page.touchscreen.tap(*at)
            else:
                page.mouse.move(*at)
                page.mouse.down()
                page.mouse.move(at[0] + 5, at[1])
                page.mouse.up()
            until(page, f"{PAINTED}({256 * part})")
        page.click(".brushes button:has-text('Undo')")
        until(page, f"!{PAINTED}({256 * part})")
        page.fill("#paint-prompt", "a small blue star")
        page.click(".brushes footer button:has-text('Draw')")
        drawn(page)
    made = newest(live)
    assert (made["kind"], made["prompt"]) == ("inpaint", "a small blue star")
    answer = live.http.get(f"/api/v1/generations/{made['id']}/mask")
    mask = Image.open(BytesIO(answer.content)).convert("L")
    assert mask.size == (256, 256)
    assert mask.getpixel((192, 192)) == 255
    assert mask.getpixel((64, 64)) == 0
    assert visits.complaints == []


def test_vary_change_and_style(visits: Visits, live: Live, job: dict[str, Any]) -> None:
    """Four with the next seeds; the form with the same seed; the same seed with a LoRA."""
    path = f"/gallery/{job['id']}/"
    with visits.opened(path) as page:
        page.wait_for_selector(".facts")
        assert violations(page) == []
        page.click("text=More like this")
        drawn(page)
        four = newest(live)
        assert (four["seed"], len(four["images"])) == ((job["seed"] + 1) % 2**32, 4)
        page.click(".card.large a.action:has-text('Open')")
        page.click(".action:has-text('Change')")
        assert page.input_value("#prompt") == job["prompt"]
        page.click(".advanced summary")
        assert page.input_value("#seed") == str(four["seed"])
        page.goto(path)
        page.click(".action:has-text('Style')")
        page.select_option("#style-name", "outline")
        page.click("dialog footer button:has-text('Draw')")
        drawn(page)
        styled = newest(live)
        assert [one["name"] for one in styled["loras"]] == ["outline"]
        assert styled["seed"] == job["seed"]
    assert visits.complaints == []


def test_again_exactly_compared_and_enlarged(visits: Visits, job: dict[str, Any]) -> None:
    with visits.opened(f"/gallery/{job['id']}/") as page:
        page.click("text=Again exactly")
        page.wait_for_selector(".verdict.good:has-text('Identical')")
        assert violations(page) == []
        page.keyboard.press("Escape")
        page.click(".action:has-text('Compare')")
        until(page, "document.querySelector('img-comparison-slider')?.shadowRoot")
        assert violations(page) == []
        page.keyboard.press("Escape")
        page.click("button.big")
        page.wait_for_selector(".pswp--open")
        assert violations(page) == []
        page.keyboard.press("Escape")
        page.wait_for_selector(".pswp", state="detached")
        page.click("summary:has-text('Timeline')")
        page.wait_for_selector(".timeline li:last-child:has-text('done')")
        page.click("summary:has-text('Receipt')")
        page.wait_for_selector("details pre:has-text('pixel_sha256')")
        assert violations(page) == []
        page.keyboard.press("Escape")
        page.wait_for_url("**/gallery/")
    assert visits.complaints == []


def test_pages_fit_a_phone_in_the_dark(visits: Visits, job: dict[str, Any]) -> None:
    """Nothing is wider than the screen, and everything can be read: each page, and what opens over a picture."""
    phone = {"viewport": PHONE, "color_scheme": "dark", "has_touch": True, "is_mobile": True}
    with visits.opened("/account/", **phone) as page:
        page.wait_for_selector(".quota")
        assert (too_wide(page), violations(page)) == ([], [])
        for label, address in (("API", "/api/docs/"), ("Admin", "/admin/")):
            # In the bar, which has no room for them, they are hidden.
            assert page.locator(f"a:text-is('{label}'):visible").get_attribute("href") == address
        page.tap(".bar a:text-is('Gallery')")
        page.wait_for_selector(".tile img")
        assert (too_wide(page), violations(page)) == ([], [])
        page.goto(f"/gallery/{job['id']}/")
        for label in ("Repaint a part", "Style", "Compare", "Share", "Delete"):
            page.tap(f".action:has-text('{label}')")
            page.wait_for_selector("dialog[open] article")
            assert (too_wide(page), violations(page)) == ([], []), label
            page.tap("dialog header button")
            page.wait_for_selector("dialog", state="detached")
    assert visits.complaints == []


def test_pictures_by_keyboard_only(visits: Visits, live: Live, job: dict[str, Any]) -> None:
    """From the page to the gallery, into a picture, to the next one, through a dialog that gives the focus back."""

    live.wait(live.create()["id"])
    with visits.opened("/account/") as page:
        page.wait_for_selector(".quota")
        page.keyboard.press("g")
        page.wait_for_selector(".tile img")
        tab_to(page, "document.activeElement.matches('.tile a')")
        page.keyboard.press("Enter")
        page.wait_for_selector(".facts")
        first = page.url
        page.keyboard.press("ArrowRight")
        until(page, f"location.href !== '{first}'")
        page.wait_for_selector(".facts")
        tab_to(page, f"{FOCUSED} === 'Repaint a part'")
        page.keyboard.press("Enter")
        page.wait_for_selector("dialog .easel canvas")
        tab_to(page, f"{FOCUSED} === 'Invert'")
        page.keyboard.press("Enter")
        until(page, "!document.querySelector('.brushes footer button:last-child').disabled")
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog", state="detached")
        assert page.evaluate(FOCUSED) == "Repaint a part"
        page.keyboard.press("Escape")
        page.wait_for_url("**/gallery/")
    assert visits.complaints == []


def test_a_gallery_of_many_is_scrolled_through(visits: Visits, live: Live, job: dict[str, Any]) -> None:
    """Page by page, each picture once, newest first; a range is selected with Shift."""
    live.shell(COPIES.format(id=job["id"], many=MANY))
    with visits.opened() as page:
        page.add_init_script(LATE_NEWS)
        page.goto("/gallery/")
        page.wait_for_selector(".tile img")
        assert violations(page) == []
        page.mouse.move(*(side / 2 for side in DESKTOP.values()))
        while (count := page.locator(".tile").count()) < MANY:
            page.mouse.wheel(0, 30_000)
            until(page, f"document.querySelectorAll('.tile').length > {count}")
        addresses: list[str] = page.eval_on_selector_all(".tile a", "all => all.map((a) => a.pathname)")
        assert len(set(addresses)) == len(addresses)
        page.evaluate("scrollTo(0, 0)")
        page.locator(".tile .pick input").nth(1).click()
        page.locator(".tile .pick input").nth(5).click(modifiers=["Shift"])
        assert page.inner_text(".selection strong") == "5 selected"
        assert violations(page) == []
    assert visits.complaints == []


def test_search_favourite_zip_and_delete(visits: Visits, live: Live, job: dict[str, Any]) -> None:
    mine = [live.wait(live.create(prompt=f"a green zebra {number}")["id"]) for number in range(2)]
    with visits.opened("/gallery/") as page:
        page.fill("#search", "zebra")
        until(page, "document.querySelectorAll('.tile').length === 2")
        page.locator(".tile .heart").first.click()
        page.click(".tools button:has-text('Favourites')")
        until(page, "document.querySelectorAll('.tile').length === 1")
        page.click(".tools button:has-text('Favourites')")
        until(page, "document.querySelectorAll('.tile').length === 2")
        for box in page.locator(".tile .pick input").all():
            box.click()
        with page.expect_download() as saved:
            page.click("text=Download as ZIP")
        assert Path(saved.value.path()).read_bytes().count(b"PK\x01\x02") == 2
        page.click(".selection button:has-text('Delete')")
        page.click(".selection .danger")
        page.wait_for_selector(".lead:has-text('Nothing fits.')")
        assert violations(page) == []
        page.goto(f"/gallery/{mine[0]['id']}/")
        page.wait_for_selector(".note.bad[role=alert]")
        assert violations(page) == []
    assert [live.http.get(f"/api/v1/generations/{one['id']}").status_code for one in mine] == [404, 404]
    assert visits.complaints == []
