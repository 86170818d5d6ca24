"""Measures the service beside what people write around diffusers: `python -m benchmarks.peers [--rounds N]`.

The peers are a FastAPI script with a lock around the pipeline, LitServe without batches and with batches of 8, and
LitServe, Ray Serve and BentoML at their best (bfloat16 and channels last where that is fast, batches of 16, the
allocator's settings and PNG level of the service). They are installed from PyPI into environments of their own, and run
on this one's torch and diffusers. All servers are up from the start; in each round each draws the same prompts with the
built-in model in turn, so that what else the machine does meets all of them. The others stand still meanwhile, as if
each had the machine to itself: LitServe with batches takes a seventh of a core while nobody asks it. Prints a Markdown
table of ratios, and writes JSON with `--json`.
"""

import argparse
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from benchmarks.load import PROMPTS, Ask, machine, measure, post, say, spread, write
from benchmarks.plots import plot_bars
from imagegen_project import env
from imagegen_project.standalone import paths
from models_registry.builtin import WEIGHTS
from tests.support.service import REPOSITORY, Service

# What each environment has beside torch and diffusers.
PACKAGES = {
    "litserve": ("fastapi==0.165.0", "uvicorn==0.54.0", "litserve==0.2.19"),
    "ray": ("ray[serve]==2.60.0",),
    "bentoml": ("bentoml==1.4.40",),
}
SERVERS = REPOSITORY / "benchmarks" / "peer_servers"
SERVICE = "this service"
SINGLE = "this service, dtype float32"
BEST = env.WORKER_ALLOCATOR | {"BEST": "1", "BATCH": "16"}


@dataclass(frozen=True)
class Peer:
    """A program, the environment it runs in, and the variables that say how."""

    program: str
    packages: str
    variables: Mapping[str, str] = field(default_factory=dict)


PEERS = {
    "FastAPI script": Peer("script.py", "litserve"),
    "LitServe": Peer("batching.py", "litserve", {"BATCH": "1"}),
    "LitServe, batches of 8": Peer("batching.py", "litserve", {"BATCH": "8"}),
    "LitServe at its best": Peer("batching.py", "litserve", BEST),
    "Ray Serve at its best": Peer("ray_serve.py", "ray", BEST),
    "BentoML at its best": Peer("bento.py", "bentoml", BEST),
}
# Each writes a lot; neither is to tell anybody.
QUIET = {
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_USAGE_STATS_ENABLED": "0",
    "BENTOML_DO_NOT_TRACK": "True",
}
START_S = 600.0
# What a server does first that stood still, such as saying that it is alive.
SETTLING_S = 2.0


def environment_make(folder: Path, peer: Peer) -> Path:
    """An environment with a peer's packages, which finds all others in this one; returns its Python."""
    python = folder / "bin" / "python"
    if python.exists():
        return python
    venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES[peer.packages]], check=True)
    own = next(folder.glob("lib/python3*/site-packages"))
    (own / "shared.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    return python


@dataclass(frozen=True)
class Server:
    """A running server: its first process, and what asks it for a picture."""

    process: psutil.Process
    ask: Ask

    @property
    def family(self) -> list[psutil.Process]:
        """All of its processes."""
        return [self.process, *self.process.children(recursive=True)]


@contextlib.contextmanager
def standing_still(servers: Iterable[Server]) -> Iterator[None]:
    """Inside, these servers get no processor time."""
    families = [process for server in servers for process in server.family]
    try:
        for process in families:
            with contextlib.suppress(psutil.NoSuchProcess):  # such as one of PostgreSQL's that tidied up
                process.suspend()
        yield
    finally:
        for process in reversed(families):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def measure_alone(
    name: str, servers: Mapping[str, Server], wanted: int, *, steps: int, clients: int
) -> float:
    """Pictures per second of a server while all others stand still."""
    with standing_still(server for other, server in servers.items() if other != name):
        time.sleep(SETTLING_S)
        return measure(servers[name].ask, requests(wanted, steps), clients=clients)[0]


@contextlib.contextmanager
def running(peer: Peer, root: Path) -> Iterator[Server]:
    """A peer's server, as long as the block lasts. Environments are made in the folder."""
    python = environment_make(root / peer.packages, peer)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    process = subprocess.Popen(
        [python, SERVERS / peer.program],
        env=os.environ
        | QUIET
        | {"MODEL": str(WEIGHTS), "PORT": str(port), "OMP_WAIT_POLICY": "PASSIVE"}
        | peer.variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                message = f"{peer.program} did not start: {(process.stderr.read() if process.stderr else b'')[-500:]!r}"
                raise RuntimeError(message)
            time.sleep(0.2)
        yield Server(psutil.Process(process.pid), post(port, "/generate"))
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def requests(count: int, steps: int) -> list[dict[str, Any]]:
    """The same for all."""
    return [
        {
            "prompt": PROMPTS[index % len(PROMPTS)],
            "seed": index,
            "steps": steps,
            "width": 512,
            "height": 512,
            "guidance_scale": 4.0,
        }
        for index in range(count)
    ]


def service_ask(service: Service) -> Ask:
    """What asks the service for a picture."""
    return post(service.port, "/api/v1/generate/txt2img", service.headers | {"Accept": "image/png"})


@contextlib.contextmanager
def services(folder: Path, *, single: bool, **variables: str) -> Iterator[Service]:
    """The service with no limits; in single precision where that is asked for."""
    folder.mkdir()
    service = Service(folder / "data", WORK_LIMIT="0", WAIT_LIMIT_S="900", **variables)
    try:
        service.wait_ready()
        if single:
            service_shell(service, _SINGLE)
        yield service
    finally:
        service.end(signal.SIGTERM)


_SINGLE = """
from models_registry.models import Checkpoint
Checkpoint.objects.filter(id="builtin").update(dtype="float32")
"""


def service_shell(service: Service, code: str) -> str:
    """Runs Python in the project, on the service's database; what it prints."""
    return subprocess.run(
        [sys.executable, REPOSITORY / "manage.py", "shell", "--verbosity", "0", "--command", code],
        env=os.environ
        | {"DATA_DIR": str(service.data_dir), "DATABASE_URL": paths.database_url(service.data_dir)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument(
        "--pictures", type=int, default=32, help="of each server in each round, with many clients"
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=[*PEERS], help="default: all of them")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = machine() | {"packages": PACKAGES, "rounds": options.rounds, "pictures_per_s": {}}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        root = Path(folder)
        servers: dict[str, Server] = {}
        for name, single in ((SERVICE, False), (SINGLE, True)):
            service = stack.enter_context(services(root / ("single" if single else "usual"), single=single))
            servers[name] = Server(psutil.Process(service.process.pid), service_ask(service))
        for name in options.peers:
            servers[name] = stack.enter_context(running(PEERS[name], root))
        for clients in options.clients:
            count = options.pictures if clients > 1 else max(4, options.pictures // 8)
            rates: dict[str, list[float]] = {name: [] for name in servers}
            for server in servers.values():  # whatever is only done once
                measure(server.ask, requests(clients, options.steps), clients=clients)
            for _ in tqdm(range(options.rounds), desc=f"{clients} clients", file=sys.stderr):
                for name in servers:
                    rate = measure_alone(name, servers, count, steps=options.steps, clients=clients)
                    rates[name].append(rate)
            found["pictures_per_s"][clients] = rates
            say(
                f"\n| {clients} clients | pictures/s | this service is | in float32 |\n| --- | --- | --- | --- |"
            )
            for name, values in rates.items():
                ratios = [
                    spread([own / other for own, other in zip(rates[own_name], values, strict=True)])
                    for own_name in (SERVICE, SINGLE)
                ]
                say(f"| {name} | {spread(values)} | {ratios[0]} x | {ratios[1]} x |")
    write(options.json, found)
    most = options.clients[-1]
    title = f"Pictures per second, {most} clients, 512x512, {options.steps} steps"
    plot_bars(options.json, title=title, unit="pictures/s", values=found["pictures_per_s"][most])
    best = statistics.median(found["pictures_per_s"][options.clients[-1]][SERVICE])
    say(f"\n{found['cpu']}, {found['cores']} cores; load {found['load_before']:.1f}; {best:.2f} pictures/s")


if __name__ == "__main__":
    main()
