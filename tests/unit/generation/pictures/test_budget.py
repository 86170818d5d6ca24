"""Memory and turns while many decode at once."""

import json
import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from generation.pictures.budget import PixelBudget
from tests.support.service import REPOSITORY, SAFETY_S, wait_for

# Eight clients at once, each with a picture and a mask of the largest size that is taken.
_CROWD = """
import io, json, threading
import django
django.setup()
from PIL import Image
from generation.pictures.fitting import image_prepare, mask_prepare
from generation.pictures.reading import picture_read

def memory(name):
    lines = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return int(lines[name].split()[0]) // 1024

def file_of(image, *args):
    buffer = io.BytesIO()
    image.save(buffer, *args)
    return buffer.getvalue()

def client():
    picture, mask = picture_read(pictures[0]), picture_read(pictures[1])
    image_prepare(picture, (1024, 1024))
    mask_prepare(mask, (1024, 1024))

size = (4000, 4000)
pictures = [file_of(Image.new("RGBA", size, (1, 2, 3, 99)), "PNG"), file_of(Image.new("L", size), "PNG")]
client()
before = memory("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
crowd = [threading.Thread(target=client) for _ in range(8)]
for thread in crowd:
    thread.start()
for thread in crowd:
    thread.join()
print(json.dumps({"before": before, "peak": memory("VmHWM"), "after": memory("VmRSS")}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_a_crowd_with_large_pictures_takes_the_memory_of_one() -> None:
    """And gives it back; decoded all at once they would take over a gigabyte."""
    done = subprocess.run(
        [sys.executable, "-c", _CROWD],
        cwd=REPOSITORY,
        env=os.environ | {"MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        timeout=SAFETY_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    megabytes: dict[str, Any] = json.loads(done.stdout)
    assert megabytes["peak"] - megabytes["before"] < 400, megabytes
    assert megabytes["after"] < megabytes["before"] * 1.1, megabytes


def test_a_large_one_waits_for_the_small_ones_before_it_and_goes_before_those_behind_it() -> None:
    """In order of arrival; a budget of ten."""
    budget = PixelBudget(10)
    order: list[str] = []
    threads: list[threading.Thread] = []
    let_go = threading.Event()

    def take(name: str, pixels: int) -> None:
        with budget.take(pixels):
            order.append(name)

    def begin(name: str, pixels: int) -> None:
        threads.append(threading.Thread(target=take, args=(name, pixels)))
        threads[-1].start()
        wait_for(lambda: len(budget._waiting) == len(threads), f"{name} waits")

    def hold() -> None:
        with budget.take(4):
            order.append("held")
            let_go.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    wait_for(lambda: order == ["held"], "the first holds")
    begin("large", 10)
    begin("small", 1)
    assert order == ["held"]
    let_go.set()
    for thread in (holder, *threads):
        thread.join()
    assert order == ["held", "large", "small"]


def test_an_error_gives_the_pixels_back() -> None:
    budget = PixelBudget(10)
    with pytest.raises(RuntimeError), budget.take(10):
        raise RuntimeError
    with budget.take(10):
        pass
