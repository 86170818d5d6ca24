"""What `manage.py standalone` is made of: its processes, its local account, and the checks before it starts."""

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

import psycopg
import redis
from django.contrib.auth.models import User
from django.db import connections
from knox.crypto import hash_token
from knox.models import AuthToken

from imagegen_project import env
from imagegen_project.auth.services import local_user_ensure, token_create
from imagegen_project.auth.tickets import link_create
from imagegen_project.standalone import paths
from imagegen_project.standalone.addresses import own_host, reachable_host
from imagegen_project.standalone.folders import lock_holder
from imagegen_project.standalone.supervisor import Child

LOCAL_USER = "local"
_SERVER_TIMEOUT_S = 5
_STOP_TIMEOUT_S = 90.0
_STOP_POLL_S = 0.1
# What a socket may send at once; what it receives may be larger (pictures).
_WEB_FRAME_LIMIT_BYTES = 16 * 1024 * 1024
_WEB_MESSAGE_LIMIT_BYTES = 64 * 1024 * 1024
# Connections that may wait to be accepted: with the server's own 50, clients that come at once are dropped.
_BACKLOG = 1024
# Stages of the supervisor: the servers (0) go last.
_SERVICE_STAGE = 1
_MANAGE = (sys.executable, "-m", "imagegen_project", "manage")


class StandaloneError(Exception):
    """The service cannot start or did not do what was asked; the message says why in one sentence."""


def port_claim(host: str, port: int) -> int:
    """The port if it is free, a free one for 0. Raises StandaloneError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise StandaloneError(
                    f"Port {port} on {host} is taken: choose another with --port."
                ) from error
            raise StandaloneError(
                f"Cannot listen on {host}, port {port} ({error.strerror}): choose others with --host and --port."
            ) from error
        return int(probe.getsockname()[1])


def check_database(url: str) -> None:
    """Raises StandaloneError where the PostgreSQL of DATABASE_URL cannot be used."""
    try:
        psycopg.connect(url, connect_timeout=_SERVER_TIMEOUT_S).close()
    except psycopg.Error as error:
        reason = str(error).strip().splitlines()[0]
        raise StandaloneError(f"The database of DATABASE_URL cannot be used: {reason}") from error


def check_redis(url: str) -> None:
    """Raises StandaloneError where the Redis of REDIS_URL cannot be used."""
    try:
        with redis.Redis.from_url(
            url, socket_timeout=_SERVER_TIMEOUT_S, socket_connect_timeout=_SERVER_TIMEOUT_S
        ) as client:
            client.ping()
    except (redis.RedisError, ValueError) as error:
        raise StandaloneError(f"The Redis of REDIS_URL cannot be used: {error}") from error


def make_folders(data_dir: Path) -> Path:
    """Makes the folders that only we may enter, and returns the folder of logs."""
    logs = data_dir / "logs"
    for folder in (logs, env.MEDIA_ROOT):
        if not folder.exists():
            folder.mkdir(parents=True, mode=0o700)
    return logs


def web_command(*, host: str, port: int) -> list[str]:
    """The command line of a web process."""
    interface = host.strip("[]").replace(":", r"\:")
    return [
        *(
            sys.executable,
            "-m",
            "daphne",
            "--endpoint",
            f"tcp:port={port}:interface={interface}:backlog={_BACKLOG}",
        ),
        *("--application-close-timeout", "2"),
        # No access log: it would show tickets, and each request has its own line.
        *("--verbosity", "0"),
        *("--websocket-max-message-size", str(_WEB_MESSAGE_LIMIT_BYTES)),
        *("--websocket-max-frame-size", str(_WEB_FRAME_LIMIT_BYTES)),
        "imagegen_project.asgi:application",
    ]


def web_environment() -> dict[str, str]:
    """The environment of a web process.

    One arena for all threads: with one each, as glibc does by itself, the process keeps growing for hours as each of
    them fills with holes, and threads that hold the GIL in turn gain nothing from it. Large blocks (bodies, pictures)
    get pages of their own, which go back when they are freed: by itself glibc stops doing that after the first ones.
    """
    return env.child_environment(ASGI_THREADS="4", MALLOC_ARENA_MAX="1", MALLOC_MMAP_THRESHOLD_="262144")


def service_children(*, host: str, port: int, workers: int, logs: Path) -> Iterator[Child]:
    """The web server and the GPU workers."""
    yield Child(
        name="web",
        command=web_command(host=host, port=port),
        log_file=logs / "web.log",
        stage=_SERVICE_STAGE,
        grace_s=env.WEB_GRACE_S + 5.0,
        popen_options={"env": web_environment()},
    )
    devices = [device for device in env.CUDA_VISIBLE_DEVICES.split(",") if device.strip()]
    for index in range(workers):
        changes = {"TORCH_THREADS": str(env.TORCH_THREADS or max(1, _cores() // workers))}
        if len(devices) > 1:
            changes["CUDA_VISIBLE_DEVICES"] = devices[index % len(devices)]
        name = "gpu-worker" if workers == 1 else f"gpu-worker-{index + 1}"
        yield Child(
            name=name,
            command=[*_MANAGE, "gpu_worker"],
            log_file=logs / f"{name}.log",
            stage=_SERVICE_STAGE,
            grace_s=env.WORKER_GRACE_S + 10.0,
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


def local_account(data_dir: Path) -> str:
    """Makes the local user and a token without expiry, kept in `<data-dir>/token`; a token that works is kept.

    The password (for the admin pages) is made with the user and kept among the secrets.
    """
    # The password of a user that exists may have been changed in the admin pages: leave it.
    known = User.objects.filter(username=LOCAL_USER).exists()
    password = None if known else paths.ensure_secret(data_dir, "admin_password")
    user = local_user_ensure(username=LOCAL_USER, password=password)
    token_file = data_dir / "token"
    token = token_file.read_text(encoding="ascii").strip() if token_file.is_file() else ""
    if token and AuthToken.objects.filter(digest=hash_token(token), user=user, expiry=None).exists():
        return token
    token = token_create(user=user, expires_in=None)
    token_file.unlink(missing_ok=True)
    token_file.touch(mode=0o600)
    token_file.write_text(token, encoding="ascii")
    return token


def sign_in_path() -> str:
    """The path of a link that signs in as the local user: once, within LINK_TTL_S, in a browser on this machine."""
    try:
        nonce = link_create(user=User.objects.get(username=LOCAL_USER))
    finally:
        close_database()
    return f"/sign-in/once/{nonce}/"


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


def close_database() -> None:
    """Ends this process's connections and the pool's threads; from here on it only watches its children."""
    for connection in connections.all(initialized_only=True):
        connection.close()
        connection.close_pool()  # type: ignore[attr-defined]


def curl_example(base_url: str, data_dir: Path) -> str:
    """A command that makes a picture with nothing but curl, and saves it."""
    return (
        f"curl --fail-with-body {base_url}/api/v1/generate/txt2img -o circle.png -H 'Accept: image/png' \\\n"
        f'    -H "Authorization: Bearer $(cat {shlex.quote(str(data_dir / "token"))})" \\\n'
        '    -H "Content-Type: application/json" \\\n'
        """    -d '{"prompt": "a large red circle on a white background"}'"""
    )
