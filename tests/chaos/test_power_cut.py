"""The power fails: every process ends at once, and a disk has not kept what it said it had."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.live import Live
from tests.support.service import Service, gone, wait_for

FAILPOINTS = Path(__file__).parent / "failpoints"


class Powered:
    """A service whose power can be cut."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "data"
        self.media = self.data_dir / "media"

    def start(self) -> Live:
        """Starts it, for the first time or after a cut."""
        variables = {"PYTHONPATH": str(FAILPOINTS), "SLOW_STEP_S": "0.2", "LEASE_S": "5"}
        self.service = Service(self.data_dir, **variables)
        self.service.wait_ready()
        self.live = Live(self.service)
        return self.live

    def cut(self) -> None:
        """No process ends by itself: the supervisor is stopped before it could see to any."""
        self.live.http.close()
        self.service.process.send_signal(signal.SIGSTOP)
        family = self.service.family()
        for process in family:
            process.kill()
        self.service.end(signal.SIGKILL)
        wait_for(lambda: gone(family), "their ends")


@pytest.fixture
def powered(tmp_path: Path) -> Iterator[Powered]:
    """One that is stopped in the end."""
    found = Powered(tmp_path)
    yield found
    found.live.http.close()
    found.service.end(signal.SIGTERM)


@pytest.mark.long
def test_what_was_answered_outlasts_the_power(powered: Powered) -> None:
    """A picture is there or is said to be lost, and can be drawn again; what was being drawn is drawn."""
    live = powered.start()
    whole, torn = (live.wait(live.create(seed=seed)["id"]) for seed in (1, 2))
    running = live.create(prompt="a slow square", steps=20)["id"]
    live.wait(running, "running")
    queued = live.create(prompt="a slow circle", steps=3)["id"]
    powered.cut()
    [file] = [path for path in powered.media.rglob("*.png") if torn["id"] in str(path)]
    os.truncate(file, file.stat().st_size // 2)

    live = powered.start()
    assert live.wait(running)["status"] == live.wait(queued)["status"] == "succeeded"
    assert live.get(running)["attempt"] == 2
    assert live.picture(running)
    assert live.picture(whole["id"])
    lost = live.http.get(f"/api/v1/generations/{torn['id']}/images/0")
    assert (lost.status_code, lost.json()["code"]) == (404, "image_not_found")
    log = powered.data_dir / "logs" / "task-worker.log"
    wait_for(lambda: "pictures damaged" in log.read_text(), "a look at the last pictures")
    replay = live.http.post(f"/api/v1/generations/{torn['id']}/replay").json()
    assert live.wait(replay["id"])["pixels_match"] is True
