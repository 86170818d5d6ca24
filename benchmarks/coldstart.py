"""How long a first picture takes: `python -m benchmarks.coldstart [--steps N]`. Prints a Markdown table.

The service on a fresh folder and on the same folder again, until it is ready and until its first two pictures are
there, and beside it the shortest script that draws the same with diffusers: import, load, one picture. Everything stays
on this machine, and so does what else it is doing: compare rows of one run, and look at the processor time that a start
took, which depends less on that.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGTERM
from typing import Any

import httpx2
import psutil

from models_registry import builtin
from tests.support.service import Service

SIDE = 512
PROMPT = "a large red circle on a white background"
SCRIPT = """
import sys, time
began = time.perf_counter()
import torch
from diffusers import DiffusionPipeline
imported = time.perf_counter()
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], dtype=torch.float32)
pipeline.set_progress_bar_config(disable=True)
loaded = time.perf_counter()
pipeline(sys.argv[2], width=int(sys.argv[3]), height=int(sys.argv[3]), num_inference_steps=int(sys.argv[4]),
         generator=torch.Generator().manual_seed(7)).images[0].save(sys.argv[5])
print(imported - began, loaded - imported, time.perf_counter() - loaded)
"""


def processor_s(service: Service) -> float:
    """Seconds that the service's processes have worked, those that have ended included."""
    found = 0.0
    for process in (psutil.Process(service.process.pid), *service.family()):
        with suppress(psutil.NoSuchProcess):  # PostgreSQL has one per connection, and they end
            one = process.cpu_times()
            found += one.user + one.system + one.children_user + one.children_system
    return found


def service_times(data_dir: Path, steps: int) -> list[float]:
    """Seconds until a service is ready, that its start worked, until its first picture, and that the next one took."""
    began = time.perf_counter()
    service = Service(data_dir)
    try:
        service.wait_ready()
        found = [time.perf_counter() - began, processor_s(service)]
        token = (data_dir / "token").read_text().strip()
        request: dict[str, Any] = {"prompt": PROMPT, "width": SIDE, "height": SIDE, "steps": steps, "seed": 7}
        with httpx2.Client(headers={"Authorization": f"Bearer {token}"}, timeout=600) as http:
            for since in (began, None):
                start = time.perf_counter() if since is None else since
                url = f"http://127.0.0.1:{service.port}/api/v1/generate/txt2img"
                http.post(url, json=request).raise_for_status()
                found.append(time.perf_counter() - start)
        return found
    finally:
        service.end(SIGTERM)


def script_times(folder: Path, steps: int) -> list[float]:
    """Seconds that the script takes to import, to load and to draw."""
    done = subprocess.run(  # noqa: S603 - our own program
        [
            sys.executable,
            "-c",
            SCRIPT,
            str(builtin.WEIGHTS),
            PROMPT,
            str(SIDE),
            str(steps),
            folder / "out.png",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return [float(word) for word in done.stdout.split()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures once, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=8, help="steps of each picture (default 8)")
    steps = parser.parse_args(arguments).steps
    with tempfile.TemporaryDirectory(prefix="imagegen-coldstart-") as name:
        folder = Path(name)
        imported, loaded, drawn = script_times(folder, steps)
        rows = [
            ("bare script: import", imported),
            ("bare script: load", loaded),
            ("bare script: one picture", drawn),
            ("bare script: altogether", imported + loaded + drawn),
        ]
        for start in ("fresh folder", "same folder again"):
            ready, worked, first, second = service_times(folder / "data", steps)
            rows += [
                (f"service, {start}: ready", ready),
                (f"service, {start}: processor time until then", worked),
                (f"service, {start}: first picture, since the start", first),
                (f"service, {start}: next picture", second),
            ]
    sys.stdout.write("| what | seconds |\n| --- | --- |\n")
    sys.stdout.writelines(f"| {what} | {seconds:.1f} |\n" for what, seconds in rows)


if __name__ == "__main__":
    main()
