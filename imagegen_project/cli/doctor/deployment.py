"""What operators set up: what strangers meet, folders, disks, the port, the Hub."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import httpx2
from django.conf import settings
from django.core.checks import Tags, run_checks

from imagegen_project import env
from imagegen_project.auth.hub import WHOAMI_PATH
from imagegen_project.cli.doctor.findings import Finding, fault, first_line, note, ok
from imagegen_project.common.disks import folder_existing, folders_kept
from imagegen_project.standalone.addresses import own_host
from imagegen_project.standalone.service import StandaloneError, port_claim

LEAST_FREE_BYTES = 1 << 30
_LOOPBACK = {"localhost", "127.0.0.1", "[::1]", "::1"}
_HEALTH_TIMEOUT_S = 5


def security() -> Iterator[Finding]:
    """What others can do; of a service that only this machine reaches, no more than that it is so."""
    is_public = bool(env.BEHIND_TLS or env.PUBLIC_URL or set(env.ALLOWED_HOSTS) - _LOOPBACK)
    if settings.DEBUG and is_public:
        yield fault(
            "debug",
            "DEBUG is on, and the service has names that others can reach: errors show its insides.",
            "Set DEBUG=false.",
        )
    if not is_public:
        yield ok("security", "reached from this machine alone, by the names in ALLOWED_HOSTS")
        return
    for message in run_checks(tags=[Tags.security], include_deployment_checks=True):
        if not message.is_silenced():
            yield note(f"security {message.id}", message.msg, message.hint or "See docs/operations.md.")


def _folders() -> dict[str, Path]:
    logs = {"logs": Path(env.LOG_DIR)} if env.LOG_DIR else {}
    return folders_kept() | logs | {"temporary files": Path(tempfile.gettempdir())}


def folders() -> Iterator[Finding]:
    """Whether files can be made where they are kept; the probes have no name, and leave nothing."""
    for what, folder in _folders().items():
        there = folder_existing(folder)
        try:
            if not os.access(there, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied")
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            yield fault(
                "folders",
                f"The folder of {what}, {folder}, cannot be written ({error.strerror}).",
                f"Give user {os.geteuid()} the right to write there, mount it writable, or make room.",
            )
        else:
            yield ok("folders", f"{folder} ({what}) can be written")


def disks() -> Iterator[Finding]:
    """Whether there is room."""
    seen = set()
    for what, folder in _folders().items():
        there = folder_existing(folder)
        if (device := there.stat().st_dev) in seen:
            continue
        seen.add(device)
        usage = shutil.disk_usage(there)
        free = f"{usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GiB free"
        if usage.free < LEAST_FREE_BYTES:
            yield fault(
                "disk",
                f"The disk of {what} ({folder}) is nearly full: {free}.",
                "Make room: `imagegen prune-generations --older-than 30d`, `imagegen prune-cache`, unload and delete "
                "models; or move the folder by its variable.",
            )
        else:
            yield ok("disk", f"{folder} ({what}): {free}")


def port(number: int) -> Iterator[Finding]:
    """Whether the web process can listen, or does."""
    try:
        port_claim("127.0.0.1", number)
    except StandaloneError as error:
        if _answers(number):
            yield ok("port", f"the service answers on port {number}")
        else:
            yield fault(
                "port",
                f"Something else listens on port {number}: {first_line(error)}",
                f"Stop it (`ss -ltnp 'sport = :{number}'` names it), or choose another port with --port.",
            )
    else:
        yield ok("port", f"{number} is free")


def _answers(number: int) -> bool:
    connection = HTTPConnection("127.0.0.1", number, timeout=_HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", "/health/ready", headers={"Host": own_host(number)})
        return b'"checks"' in connection.getresponse().read()
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def hub() -> Iterator[Finding]:
    """Whether models can be fetched, and whether the Hub knows the service's token."""
    headers = {"Authorization": f"Bearer {settings.HF_TOKEN}"} if settings.HF_TOKEN else {}
    try:
        answer = httpx2.get(
            f"{settings.HF_ENDPOINT}{WHOAMI_PATH}", headers=headers, timeout=settings.HUB_TIMEOUT_S
        )
    except (httpx2.HTTPError, OSError) as error:
        yield note(
            "hub",
            f"{settings.HF_ENDPOINT} does not answer ({type(error).__name__}): models that are not here cannot be "
            "fetched, and Hub tokens are refused.",
            "Let this host reach it (a proxy by HTTPS_PROXY), or set HF_ENDPOINT to a mirror.",
        )
        return
    if settings.HF_TOKEN and answer.status_code == 401:
        yield fault(
            "hub token",
            f"{settings.HF_ENDPOINT} refuses HF_TOKEN: it was revoked, has expired or is mistyped.",
            "Make one with read access on the Hub (Settings, Access Tokens), and set HF_TOKEN to it.",
        )
    else:
        yield ok("hub", f"{settings.HF_ENDPOINT} answers")
