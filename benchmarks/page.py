"""Measures the page in Chromium: `python -m benchmarks.page [--visits N] [--pictures N] [--generations N]`.

Starts `standalone` in a throw-away folder and prints, as a Markdown table with the load of the machine beside: how long
after a navigation the prompt can be typed into and the button be pressed (a new browser profile each time), how
smoothly a gallery of 500 is scrolled through, and what the page keeps in memory while 200 generations are drawn. A busy
machine makes frames late; what the main thread itself worked does not depend on it. Everything stays on this machine.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM
from typing import Any, Final

from playwright.sync_api import CDPSession, Page, sync_playwright
from tqdm import tqdm

from tests.browser.test_pictures import COPIES
from tests.browser.visits import DESKTOP, OPTIONS, Visits, chromium_path, draw, until
from tests.support.live import Live
from tests.support.service import Service

MOST_INTERACTIVE_MS: Final = 1000
LATE_FRAME_MS: Final = 100
READINGS: Final = 5
WHEEL: Final = 120
WHEEL_PAUSE_MS: Final = 30
SIDE: Final = 256
# Marks when the prompt is there, and when the button can be pressed.
MARKS = """
const seen = {};
const look = () => {
  const found = { prompt: document.querySelector("#prompt"), button: document.querySelector(".draw:enabled") };
  for (const [name, element] of Object.entries(found)) if (element && !seen[name]) seen[name] = performance.mark(name);
};
new MutationObserver(look).observe(document, { subtree: true, childList: true, attributes: true });
"""
TIMES = """() => ({
  ...Object.fromEntries(performance.getEntriesByType("mark").map(({ name, startTime }) => [name, startTime])),
  answer: performance.getEntriesByType("navigation")[0].responseEnd,
  bytes: [...performance.getEntriesByType("resource"), ...performance.getEntriesByType("navigation")]
    .filter(({ name }) => !name.includes("/examples/")).reduce((sum, { transferSize }) => sum + transferSize, 0),
})"""
# Every frame's length while `watching` is there, and what kept the main thread for long.
WATCH = """() => {
  window.watching = { frames: [], tasks: [] };
  let last = performance.now();
  const frame = (now) => {
    watching.frames.push(now - last);
    last = now;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  new PerformanceObserver((list) => watching.tasks.push(...list.getEntries().map(({ duration }) => duration)))
    .observe({ type: "longtask" });
}"""


def loading(visits: Visits, count: int) -> Iterator[tuple[str, str]]:
    """Navigations in new contexts, each with an empty cache."""
    found: list[dict[str, float]] = []
    for _ in tqdm(range(count), desc="loading", file=sys.stderr):
        with visits.opened() as page:
            page.add_init_script(MARKS)
            page.goto("/")
            page.wait_for_selector(".draw:enabled")
            found.append(page.evaluate(TIMES))
    for name, words in (
        ("answer", "the page has come"),
        ("prompt", f"the prompt can be typed into (at most {MOST_INTERACTIVE_MS} ms)"),
        ("button", "and the button be pressed"),
    ):
        times = sorted(one[name] for one in found)
        yield words, f"{statistics.median(times):.0f} ms; {times[0]:.0f} to {times[-1]:.0f}"
    yield "first load, without the examples' pictures", f"{found[0]['bytes'] / 1000:.0f} kB"


def main_thread_s(session: CDPSession) -> float:
    """CPU seconds of the page's main thread so far."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))


def scrolling(visits: Visits, live: Live, count: int) -> Iterator[tuple[str, str]]:
    """From the first of so many pictures to the last, by the mouse's wheel."""
    first = live.wait(live.create(width=SIDE, height=SIDE)["id"])
    live.shell(COPIES.format(id=first["id"], many=count - 1))
    with visits.opened("/gallery/") as page:
        page.wait_for_selector(".tile img")
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.mouse.move(*(side / 2 for side in DESKTOP.values()))
        before = main_thread_s(session)
        page.evaluate(WATCH)
        last = f"document.querySelectorAll('.tile')[{count - 1}]"
        while not page.evaluate(f"{last}?.getBoundingClientRect().top < innerHeight"):
            page.mouse.wheel(0, WHEEL)
            page.wait_for_timeout(WHEEL_PAUSE_MS)
        watched: dict[str, list[float]] = page.evaluate("watching")
        worked = main_thread_s(session) - before
    frames, tasks = sorted(watched["frames"]), watched["tasks"]
    late = sum(one > LATE_FRAME_MS for one in frames)
    yield f"frames over {LATE_FRAME_MS} ms while {count} pictures pass (none)", f"{late} of {len(frames)}"
    yield "the longest frame", f"{frames[-1]:.0f} ms; 99 % within {frames[int(len(frames) * 0.99)]:.0f} ms"
    yield "the longest task", f"{max(tasks, default=0):.0f} ms; {len(tasks)} over 50 ms"
    yield "what the main thread worked", f"{worked / len(frames) * 1000:.1f} ms per frame, {worked:.1f} s in all"


def kept(page: Page, session: CDPSession) -> dict[str, Any]:
    """What the page holds once nothing is left to collect."""
    until(page, "document.querySelectorAll('.card:is(.queued, .loading, .denoising, .sending)').length === 0")
    session.send("HeapProfiler.collectGarbage")
    return {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}


def memory(visits: Visits, count: int) -> Iterator[tuple[str, str]]:
    """So many generations of one visit."""
    found = []
    with visits.opened("/") as page:
        page.wait_for_selector(".draw:enabled")
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        for number in tqdm(range(count), desc="drawing", file=sys.stderr):
            draw(page, f"a red circle {number}", steps=1, size=SIDE)
            # No `wait_for_selector`: the handle that it returns would keep the picture's nodes alive.
            page.locator(f".card.large.succeeded[aria-label='a red circle {number}'] .final").wait_for()
            if (number + 1) % (count // READINGS) == 0:
                found.append(kept(page, session))
    for name, unit, words in (
        ("JSHeapUsedSize", 1e6, "JavaScript heap, MB"),
        ("Nodes", 1, "nodes of the document"),
        ("JSEventListeners", 1, "listeners"),
    ):
        values = ", ".join(f"{one[name] / unit:.4g}" for one in found)
        yield f"{words}, after each fifth of {count} generations (flat)", values


def main() -> None:
    """Starts, measures, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--visits", type=int, default=9, help="how often the page is opened (default: 9)")
    parser.add_argument("--pictures", type=int, default=500, help="in the gallery (default: 500)")
    parser.add_argument("--generations", type=int, default=200, help="drawn in one visit (default: 200)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        service = Service(Path(folder) / "data")
        try:
            service.wait_ready()
            live = Live(service)
            browser = started.chromium.launch(executable_path=chromium_path(), args=OPTIONS)
            visits = Visits(browser, live)
            # The worker has its model then, and the server has answered before.
            live.wait(live.create()["id"])
            sys.stdout.write("| what | measured | load |\n|---|---|---|\n")
            for part in (
                loading(visits, options.visits),
                memory(visits, options.generations),
                scrolling(visits, live, options.pictures),
            ):
                for words, value in part:
                    sys.stdout.write(f"| {words} | {value} | {os.getloadavg()[0]:.1f} |\n")
                    sys.stdout.flush()
            for complaint in visits.complaints:
                sys.stderr.write(f"{complaint}\n")
        finally:
            service.end(SIGTERM)


if __name__ == "__main__":
    main()
