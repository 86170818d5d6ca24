"""Looks on a card at what only a card shows: `python -m scripts.gpu [--wheels FOLDER] [--minutes N]`, or `make gpu`.

For a machine that has torch and nothing else, and reaches no network: what else is needed is taken from a folder of
wheels, which `make gpu-wheels` makes where there is a network. Prints each part's result as that part ends, begins none
after so many minutes, and ends with 1 if one failed. Without a card it runs on the CPU, and says so.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parent.parent
WHEELS: Final = REPOSITORY / "gpu-wheels"
MAX_WHEELS_MB: Final = 64
MINUTES: Final = 8.0
LOCKS: Final = ("worker", "web", "quantized")
# What the engine imports, and what that needs, beside torch and its own requirements. Of the libraries that read
# quantized weights the small one: the other would take two thirds of the room.
PACKAGES: Final = (
    *("diffusers", "transformers", "peft", "accelerate", "safetensors", "huggingface-hub", "tokenizers"),
    *("greenlet", "psutil", "pillow", "numpy", "regex", "pyyaml", "packaging", "filelock", "tqdm"),
    *("requests", "urllib3", "httpx2", "httpcore2", "anyio", "h11", "certifi", "idna", "truststore"),
    *("charset-normalizer", "importlib-metadata", "lazy-importer", "zipp", "typing-extensions", "fsspec"),
    *("torchao", "hf-xet", "sentencepiece", "protobuf", "environs", "python-dotenv", "marshmallow"),
    *("typer", "click", "shellingham", "rich", "annotated-doc", "pygments", "markdown-it-py", "mdurl"),
)


def wheels_list() -> list[str]:
    """The packages with the versions that the locks name."""
    locked: dict[str, str] = {}
    for lock in LOCKS:
        text = (REPOSITORY / "locks" / f"{lock}.lock").read_text(encoding="utf-8")
        locked |= dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", text, flags=re.MULTILINE))
    return [f"{name}=={locked[name]}" for name in PACKAGES]


def wheels_bring(folder: Path, *, python: str) -> int:
    """Downloads the wheels; returns their size in bytes."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*command, "--python-version", python, "--dest", str(folder), *wheels_list()], check=True)
    return sum(path.stat().st_size for path in folder.glob("*.whl"))


def wheels_install(folder: Path, place: Path) -> None:
    """Puts the packages of a folder of wheels in place, those that are not there already."""
    files = [
        str(path)
        for path in sorted(folder.glob("*.whl"))
        if not _is_there(path.name.partition("-")[0].lower())
    ]
    if files:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
        subprocess.run([*command, "--target", str(place), *files], check=True)


def _is_there(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="scripts.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--wheels", type=Path, default=WHEELS)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--bring", metavar="PYTHON", help="download the wheels for this version of Python")
    options = parser.parse_args(arguments)
    if options.bring:
        size = wheels_bring(options.wheels, python=options.bring)
        sys.stdout.write(f"{options.wheels}: {size / 2**20:.1f} MiB of {MAX_WHEELS_MB}\n")
        return int(size > MAX_WHEELS_MB << 20)
    with tempfile.TemporaryDirectory() as place:
        packages = Path(place) / "packages"
        wheels_install(options.wheels, packages)
        command = [sys.executable, "-m", "tests.gpu", str(options.minutes), str(packages)]
        return subprocess.run(command, cwd=REPOSITORY, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
