"""Runs other services' client programs against this service, and prints what of them works: `make clients`.

Each program is installed by npm or pip into a folder of its own below `--cache`, which later runs use again, and is
driven by a script of `tests/clients/programs/`. The service is started for it, or is the one that `--url` names.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw

REPOSITORY: Final = Path(__file__).resolve().parents[1]
DRIVERS: Final = REPOSITORY / "tests" / "clients" / "programs"
PATIENCE_S: Final = 1800.0
READY_S: Final = 600.0
CACHE: Final = REPOSITORY / ".clients"


@dataclass(frozen=True)
class Program:
    """A client program: how its row calls it, what installs it, its packages, and the script that drives it.

    The first package is the one whose version the row names; pip's may be a `requirement==version`.
    """

    name: str
    installer: str
    packages: tuple[str, ...]
    driver: str
    dependencies: bool = True


PROGRAMS: Final = {
    "openai-python": Program("`openai` (PyPI)", "pip", ("openai",), "openai_python.py"),
    "openai-node": Program("`openai` (npm)", "npm", ("openai",), "openai_node.mjs"),
    "vercel-ai": Program(
        "Vercel AI SDK (npm `ai`)",
        "npm",
        ("ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible"),
        "vercel_ai.mjs",
    ),
    "huggingface-inference": Program(
        "`@huggingface/inference` (npm)", "npm", ("@huggingface/inference",), "huggingface_inference.mjs"
    ),
    "langchain-node": Program(
        "LangChain (npm `@langchain/openai`)",
        "npm",
        ("@langchain/openai", "@langchain/core"),
        "langchain_node.mjs",
    ),
    "langchain-python": Program(
        "LangChain (PyPI `langchain-community`)",
        "pip",
        ("langchain-community", "langchain-openai", "openai"),
        "langchain_python.py",
    ),
    "litellm": Program("LiteLLM (PyPI `litellm`)", "pip", ("litellm",), "litellm_python.py"),
    "webuiapi": Program("`webuiapi` (PyPI)", "pip", ("webuiapi",), "webui_api.py"),
    "sillytavern": Program("SillyTavern (npm `sillytavern`)", "npm", ("sillytavern",), "sillytavern.mjs"),
    "open-webui": Program(
        "Open WebUI (PyPI `open-webui`)",
        "pip",
        ("open-webui",),
        "open_webui_routers.py",
        dependencies=False,
    ),
}
# What Open WebUI's router itself needs of its requirements.
_ROUTER_NEEDS: Final = ("aiohttp", "aiofiles", "fastapi", "python-multipart", "pillow", "sqlalchemy[asyncio]")


@dataclass(frozen=True)
class Row:
    """What a program's run showed: `works` and `fails` name checks, the latter with their reasons."""

    program: Program
    version: str
    works: list[str]
    fails: dict[str, str]

    def __str__(self) -> str:
        fails = "; ".join(f"**{what}**: {reason}" for what, reason in self.fails.items())
        return f"| {self.program.name} | {self.version} | {', '.join(self.works) or '-'} | {fails or '-'} |"


def program_run(key: str, *, url: str, token: str, cache: Path) -> Row:
    """Installs a program where it is not yet, and drives it. Raises CalledProcessError where it cannot be installed."""
    program, folder = PROGRAMS[key], cache / key
    folder.mkdir(parents=True, exist_ok=True)
    if program.installer == "npm":
        version, command = _npm(program, folder), ["node", program.driver]
    else:
        version, command = _pip(program, folder), [str(_python(folder)), program.driver]
    for name in (program.driver, "checks.py", "checks.mjs"):
        shutil.copy(DRIVERS / name, folder / name)
    _pictures(folder)
    with (folder / "errors.log").open("w") as errors:
        done = subprocess.run(
            command,
            cwd=folder,
            env=_environment(URL=url, TOKEN=token, NODE_NO_WARNINGS="1"),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    outcomes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"what"')]
    works = [outcome["what"] for outcome in outcomes if outcome["ok"]]
    fails = {outcome["what"]: outcome["detail"] for outcome in outcomes if not outcome["ok"]}
    if done.returncode or not outcomes:
        fails["the run"] = f"ended with {done.returncode}, see {folder / 'errors.log'}"
    return Row(program, version, works, fails)


def _environment(**variables: str) -> dict[str, str]:
    """This process's environment for a child, and more."""
    return {**os.environ, **variables}  # noqa: TID251 - nothing of it is read


def _npm(program: Program, folder: Path) -> str:
    """Installs packages of npm; returns the version of the first."""
    described = folder / "node_modules" / program.packages[0] / "package.json"
    if not described.is_file():
        (folder / "package.json").write_text('{"private": true}')
        _install(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", *program.packages], folder)
    return str(json.loads(described.read_text())["version"])


def _pip(program: Program, folder: Path) -> str:
    """Makes an environment with packages of PyPI; returns the version of the first."""
    if not (folder / "installed").is_file():
        _install([sys.executable, "-m", "venv", "environment"], folder)
        pip = [str(_python(folder)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if not program.dependencies:
            _install([*pip, *_ROUTER_NEEDS], folder)
            pip.append("--no-deps")
        _install([*pip, *program.packages], folder)
        (folder / "installed").touch()
    (site,) = (folder / "environment").glob("lib/python*/site-packages")
    (found,) = metadata.distributions(name=program.packages[0], path=[str(site)])
    return found.version


def _python(folder: Path) -> Path:
    return folder / "environment" / "bin" / "python"


def _install(command: Sequence[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, timeout=PATIENCE_S, stdout=subprocess.DEVNULL)


def _pictures(folder: Path) -> None:
    """A picture to start from, and OpenAI's mask for it: the left half is to be drawn anew."""
    image = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(image).ellipse((60, 60, 196, 196), fill="red")
    image.save(folder / "in.png")
    mask = Image.new("RGBA", (256, 256), "black")
    mask.paste((0, 0, 0, 0), (0, 0, 128, 256))
    mask.save(folder / "mask.png")


@contextlib.contextmanager
def service() -> Iterator[tuple[str, str]]:
    """A service of its own in a throw-away folder, that lets A1111's clients in without credentials: address, token."""
    with tempfile.TemporaryDirectory(prefix="imagegen-clients-", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "data"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, str(REPOSITORY / "manage.py"), "standalone", "--data-dir", str(data)]
        with (Path(folder) / "output.txt").open("w") as output:
            process = subprocess.Popen(
                [*command, "--port", str(port)],
                cwd=folder,
                env=_environment(A1111_OPEN_NETWORKS="loopback"),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            _wait_ready(process, port)
            yield f"http://127.0.0.1:{port}", (data / "token").read_text().strip()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _wait_ready(process: "subprocess.Popen[bytes]", port: int) -> None:
    """Waits for a live GPU worker. Raises RuntimeError when the service ends instead, or does not come."""
    deadline = time.monotonic() + READY_S
    while process.poll() is None and time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError),
            contextlib.closing(HTTPConnection("127.0.0.1", port)) as connection,
        ):
            connection.request("GET", "/health/ready?worker=1")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.5)
    raise RuntimeError("The service did not start.")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; the status is 1 where a check failed."""
    parser = argparse.ArgumentParser(prog="python -m scripts.clients", description=__doc__)
    parser.add_argument(
        "programs", nargs="*", metavar="program", help=f"of {', '.join(PROGRAMS)}; default: all"
    )
    parser.add_argument(
        "--cache", type=Path, default=CACHE, help=f"where programs are installed; default {CACHE}"
    )
    parser.add_argument("--url", help="a running service, with its token in the variable TOKEN")
    given = parser.parse_args(arguments)
    if unknown := set(given.programs) - PROGRAMS.keys():
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    token = os.environ.get("TOKEN", "")  # noqa: TID251 - of this command alone
    running: Any = contextlib.nullcontext((given.url, token)) if given.url else service()
    failed = False
    with running as (url, token):
        _say("| client | version | what works | what does not |\n| --- | --- | --- | --- |")
        for key in given.programs or PROGRAMS:
            try:
                row = program_run(key, url=url, token=token, cache=given.cache.resolve())
            except (subprocess.SubprocessError, OSError) as error:
                row = Row(PROGRAMS[key], "-", [], {"the installation": str(error)[:300]})
            failed |= bool(row.fails)
            _say(str(row))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
