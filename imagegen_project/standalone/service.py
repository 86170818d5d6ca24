"""What `manage.py standalone` is made of: its processes, and what it looks for and says."""

import errno
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from imagegen_project import env
from imagegen_project.standalone.addresses import own_host, reachable_host
from imagegen_project.standalone.folders import lock_holder
from imagegen_project.standalone.supervisor import Child, Gate

_STOP_TIMEOUT_S = 90.0
_STOP_POLL_S = 0.1
# What a socket may send at once; what it receives may be larger (pictures).
_WEB_FRAME_LIMIT_BYTES = 16 * 1024 * 1024
_WEB_MESSAGE_LIMIT_BYTES = 64 * 1024 * 1024
# Connections that may wait to be accepted: with the server's own 50, clients that come at once are dropped.
BACKLOG = 1024
# Stages of the supervisor: the servers (0) go last.
_SERVICE_STAGE = 1
_MANAGE = (sys.executable, "-m", "imagegen_project", "manage")


class StandaloneError(Exception):
    """The service cannot start or did not do what was asked; the message says why in one sentence."""


def ready_lines(seconds: float) -> list[str]:
    """What is said once the service answers, so many seconds after its start."""
    lines = [f"Ready after {seconds:.1f} s."]
    if env.COMPILE_MODELS:
        lines.append(
            "GPU workers compile the default model before they draw, which takes minutes at the first start: jobs "
            "wait, and `imagegen workers` says `loading` until then."
        )
    return lines


def port_claim(host: str, port: int) -> int:
    """The port if it is free, a free one for 0. Raises StandaloneError."""
    with _bound(host, port) as probe:
        return int(probe.getsockname()[1])


def port_listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises StandaloneError."""
    listener = _bound(host, port)
    listener.listen(BACKLOG)
    return listener


def _bound(host: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host.strip("[]"), port))
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise StandaloneError(f"Port {port} on {host} is taken: choose another with --port.") from error
        raise StandaloneError(
            f"Cannot listen on {host}, port {port} ({error.strerror}): choose others with --host and --port."
        ) from error
    return bound


def make_folders(data_dir: Path) -> Path:
    """Makes the folders that only we may enter, and returns the folder of logs."""
    logs = data_dir / "logs"
    for folder in (logs, env.MEDIA_ROOT):
        if not folder.exists():
            folder.mkdir(parents=True, mode=0o700)
    return logs


def web_command(*, host: str, port: int) -> list[str]:
    """The command line of a web process that listens by itself."""
    interface = host.strip("[]").replace(":", r"\:")
    return _web_command(f"tcp:port={port}:interface={interface}:backlog={BACKLOG}")


def web_command_shared(*, ipv6: bool) -> list[str]:
    """The command line of a web process whose standard input is a socket that listens: it takes connections from it.

    It is told in systemd's way, which wants the process's own number and the descriptor 3.
    """
    family = "INET6" if ipv6 else "INET"
    told = 'LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web exec "$@" 3<&0 </dev/null'
    return ["/bin/sh", "-c", told, "sh", *_web_command(f"systemd:domain={family}:name=web")]


def _web_command(endpoint: str) -> list[str]:
    return [
        *(sys.executable, "-m", "daphne", "--endpoint", endpoint),
        *("--application-close-timeout", "2"),
        # No access log: it would show tickets, and each request has its own line.
        *("--verbosity", "0"),
        *("--websocket-max-message-size", str(_WEB_MESSAGE_LIMIT_BYTES)),
        *("--websocket-max-frame-size", str(_WEB_FRAME_LIMIT_BYTES)),
        "imagegen_project.asgi:application",
    ]


def web_environment(**changes: str) -> dict[str, str]:
    """The environment of a web process, with `changes` on top.

    One arena for all threads: with one each, as glibc does by itself, the process keeps growing for hours as each of
    them fills with holes, and threads that hold the GIL in turn gain nothing from it. Large blocks (bodies, pictures)
    get pages of their own, which go back when they are freed: by itself glibc stops doing that after the first ones.
    """
    return env.child_environment(
        ASGI_THREADS="4", MALLOC_ARENA_MAX="1", MALLOC_MMAP_THRESHOLD_="262144", **changes
    )


def web_child(*, host: str, port: int, logs: Path) -> Child:
    """The web server."""
    return Child(
        name="web",
        command=web_command(host=host, port=port),
        log_file=logs / "web.log",
        stage=_SERVICE_STAGE,
        grace_s=env.WEB_GRACE_S + 5.0,
        popen_options={"env": web_environment()},
    )


def worker_children(*, workers: int, gate: Gate, logs: Path) -> Iterator[Child]:
    """The GPU workers, which take seconds to import what they need, and only then the servers behind the gate."""
    devices = [device for device in env.CUDA_VISIBLE_DEVICES.split(",") if device.strip()]
    for index in range(workers):
        changes = {"TORCH_THREADS": str(env.TORCH_THREADS or max(1, _cores() // workers))}
        if len(devices) > 1:
            changes["CUDA_VISIBLE_DEVICES"] = devices[index % len(devices)]
        name = "gpu-worker" if workers == 1 else f"gpu-worker-{index + 1}"
        yield Child(
            name=name,
            command=[*_MANAGE, "gpu_worker", "--after-input"],
            log_file=logs / f"{name}.log",
            stage=_SERVICE_STAGE,
            grace_s=env.WORKER_GRACE_S + 10.0,
            stdin=gate.closed,
            popen_options={"env": env.worker_environment(**changes)},
        )


def background_children(*, logs: Path) -> Iterator[Child]:
    """The task worker and the webhook worker; started last, since on few cores a first picture would wait for them."""
    for name in ("task-worker", "webhook-worker"):
        yield Child(
            name=name,
            command=[*_MANAGE, name.replace("-", "_")],
            log_file=logs / f"{name}.log",
            stage=_SERVICE_STAGE,
            stop_signal=signal.SIGTERM,
            popen_options={"env": env.child_environment()},
        )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_ready(host: str, port: int) -> bool:
    """Whether the web server answers, reaches its servers and sees a live GPU worker."""
    connection = HTTPConnection(reachable_host(host), port, timeout=10)
    try:
        connection.request("GET", "/health/ready?worker=1", headers={"Host": own_host(port)})
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def stop_other(data_dir: Path) -> str:
    """Stops the service that uses a data folder, waits for its end, and says what was done. Raises StandaloneError."""
    holder = lock_holder(data_dir)
    if holder is None:
        return f"Nothing runs on {data_dir}."
    with suppress(ProcessLookupError):
        os.kill(holder, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while lock_holder(data_dir) == holder:
        if time.monotonic() > deadline:
            raise StandaloneError(f"Process {holder}, which uses {data_dir}, did not end when asked to.")
        time.sleep(_STOP_POLL_S)
    return f"Stopped process {holder}."


def curl_example(base_url: str, data_dir: Path) -> str:
    """A command that makes a picture with nothing but curl, and saves it."""
    return (
        f"curl --fail-with-body {base_url}/api/v1/generate/txt2img -o circle.png -H 'Accept: image/png' \\\n"
        f'    -H "Authorization: Bearer $(cat {shlex.quote(str(data_dir / "token"))})" \\\n'
        '    -H "Content-Type: application/json" \\\n'
        """    -d '{"prompt": "a large red circle on a white background"}'"""
    )
