"""What everything stands on: settings, packages, the GPU and its driver. Imports nothing of Django's."""

import contextlib
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from imagegen_project import env
from imagegen_project.cli.doctor.findings import Finding, fault, first_line, note, ok
from imagegen_project.cli.manage import django_setup
from imagegen_project.common.compilers import compiler_lacking

_ROOT = Path(env.__file__).resolve().parent.parent
_SMI_TIMEOUT_S = 20
# The packages that make an installation a GPU worker's.
_WORKER_SIGNS = ("diffusers", "transformers", "torch")


def settings_usable() -> Iterator[Finding]:
    """Whether Django can be set up with them."""
    try:
        django_setup()
        from django.conf import settings

        key = settings.SECRET_KEY
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        if "SECRET_KEY" in str(error) and not env.SECRET_KEY:
            yield fault(
                "secret key",
                f"There is none: SECRET_KEY is empty, and {env.DATA_DIR} holds none.",
                "Set SECRET_KEY to 50 random characters or more; `imagegen demo` makes one in its data folder.",
            )
        else:
            check = "secret key" if "SECRET_KEY" in str(error) else "settings"
            yield fault(
                check, first_line(error), "Correct it in the environment or in .env; see docs/settings.md."
            )
        return
    yield ok("settings", f"{len(key)} characters sign; data in {env.DATA_DIR}")


def requirements() -> dict[str, dict[str, str]]:
    """The pinned version of each package, by the file that names it.

    Where the program was installed as a package, its own list stands in the place of all files; empty where there is
    neither.
    """
    found: dict[str, dict[str, str]] = {}
    for file in ("requirements-web.txt", "requirements-worker.txt"):
        path = _ROOT / file
        found[file] = _pins(path.read_text(encoding="utf-8").splitlines() if path.is_file() else [])
    if not any(found.values()):
        with contextlib.suppress(metadata.PackageNotFoundError):
            of_all = [line for line in metadata.requires("imagegen") or [] if "extra ==" not in line]
            found["requirements-web.txt"] = _pins(line for line in of_all if "sys_platform" not in line)
    return found


def _pins(lines: Iterable[str]) -> dict[str, str]:
    pins = (re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*])?==([^\s;]+)", line) for line in lines)
    return {pin[1]: pin[2] for pin in pins if pin}


def packages() -> Iterator[Finding]:
    """What the program imports is installed, in the version that it was tested with."""
    pinned = requirements()
    is_worker = any(importlib.util.find_spec(name) for name in _WORKER_SIGNS)
    wanted = pinned["requirements-web.txt"] | (pinned["requirements-worker.txt"] if is_worker else {})
    missing, other = [], []
    for name, version in wanted.items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(f"{name} {version}")
            continue
        if installed.partition("+")[0] != version:
            other.append(f"{name} is {installed}, not {version}")
    remedy = "Install what the locks say: `make install`, or `pip install .` of this version."
    if missing:
        of_models = "; models that need one of them cannot be loaded" if is_worker else ""
        yield fault("libraries", f"Not installed: {', '.join(missing)}{of_models}.", remedy)
    if other:
        yield note("versions", f"Untested versions: {'; '.join(other)}.", remedy)
    if not missing and not other:
        yield ok("libraries", f"{len(wanted)} packages are as pinned")


def gpu() -> Iterator[Finding]:
    """Whether the driver works, and whether torch was built for it; torch's own words are read, not its code."""
    built_for = torch_cuda()
    if built_for is None:
        return  # no torch: not a GPU worker's host
    program = shutil.which("nvidia-smi")
    if program is None:
        if Path("/dev/nvidia0").exists():
            yield fault(
                "gpu driver",
                "There is an NVIDIA device, and no nvidia-smi.",
                "Install the driver's tools; in a container, set NVIDIA_DRIVER_CAPABILITIES=compute,utility.",
            )
        else:
            yield ok("gpu driver", "no NVIDIA GPU here: workers draw on the CPU")
        return
    done = subprocess.run(  # noqa: S603 - the driver's own program
        [program], capture_output=True, text=True, check=False, timeout=_SMI_TIMEOUT_S
    )
    said = f"{done.stdout}\n{done.stderr}"
    if "version mismatch" in said:
        yield fault(
            "gpu driver",
            "The kernel's driver and its library differ (nvidia-smi: Driver/library version mismatch).",
            "Reboot, or unload and load the module nvidia; it comes of an update of the driver without a reboot.",
        )
    elif done.returncode != 0:
        words = next((line.strip() for line in said.splitlines() if line.strip()), "no message")
        yield fault(
            "gpu driver",
            f"nvidia-smi fails: {words}",
            "Install or load the driver (`modprobe nvidia`); in a container, start it with a GPU.",
        )
    else:
        yield from _build(built_for, re.search(r"CUDA Version:\s*(\d+)\.(\d+)", said))


def _build(built_for: str, offered: re.Match[str] | None) -> Iterator[Finding]:
    if not built_for:
        yield fault(
            "gpu build",
            "There is a GPU, and torch is the build for CPUs: the GPU is not used.",
            "`make install TORCH=cuda`, or pip install torch of the same version from PyPI.",
        )
    elif offered and int(offered[1]) < int(built_for.partition(".")[0]):
        yield fault(
            "gpu driver",
            f"The driver knows CUDA up to {offered[1]}.{offered[2]}, and torch was built for {built_for}.",
            "Update the driver, or install torch built for an older CUDA (TORCH_INDEX of the image, pip's index).",
        )
    else:
        yield ok("gpu driver", f"it works, and torch was built for CUDA {built_for}")


def compiler() -> Iterator[Finding]:
    """Whether there is the program that COMPILE_MODELS needs."""
    built_for = torch_cuda()
    if built_for is None or not env.COMPILE_MODELS:
        return
    has_card = bool(built_for) and shutil.which("nvidia-smi") is not None
    if lacking := compiler_lacking(card=has_card):
        yield fault(
            "compiler",
            f"COMPILE_MODELS is on, and models are drawn without compiling: {lacking}",
            f"Install one (`apt-get install {'gcc' if has_card else 'g++'}`), or set COMPILE_MODELS=false.",
        )
    else:
        yield ok("compiler", "there is what COMPILE_MODELS needs")


def torch_cuda() -> str | None:
    """The CUDA that torch was built for, "" for none; None where there is no torch."""
    spec = importlib.util.find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    if file is None or not file.is_file():
        return None
    found = re.search(r"^cuda\b[^=]*=\s*'([\d.]+)'", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return found[1] if found else ""
