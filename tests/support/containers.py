"""docker-compose.yml's services on a machine without an engine: buildah's images, and Linux's own tools.

A container here is what it is there: the image's files that cannot be written, the volumes and secrets that the file
names, no root, no capability, no new privilege, process numbers of its own. Together they have a network of their own,
so that their ports are free. PostgreSQL and Redis are those from wheels, under the names that the file gives them.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import yaml
from psycopg import sql

from imagegen_project.standalone.paths import ensure_secret, read_secret
from imagegen_project.standalone.servers import EmbeddedPostgres, EmbeddedRedis
from tests.support.service import REPOSITORY, SAFETY_S, wait_for

USER = 10001
HOSTS = "127.0.0.1 localhost postgres redis\n"
# In the order of its arguments: root folder, hosts file, folder of secrets, then `source:target` of volumes, then "--".
_ENTER = r"""
set -e
root=$1 hosts=$2 secrets=$3; shift 3
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$hosts" "$root/etc/hosts"
mount --bind "$secrets" "$root/run/secrets"
while [ "$1" != -- ]; do mount --bind "${1%%:*}" "$root/${1#*:}"; shift; done
shift
mount -o remount,bind,ro "$root"
mount -t tmpfs tmpfs "$root/tmp"
exec chroot "$root" "$@"
"""
_ASK = """
import sys, urllib.error, urllib.request
url, token, body = sys.argv[1:]
headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
request = urllib.request.Request(url, body.encode() or None, headers)
try:
    with urllib.request.urlopen(request, timeout=120) as answer:
        print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
except OSError as error:
    print(0, error)
"""


def buildah(*arguments: str, timeout: float = SAFETY_S) -> str:
    """What a command of buildah's prints."""
    done = subprocess.run(
        ["buildah", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout.strip()


class Image:
    """An image's settings, and its files in a folder."""

    def __init__(self, name: str) -> None:
        self.config: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", name))["Docker"][
            "config"
        ]
        self.environment = dict(pair.split("=", 1) for pair in self.config["Env"])
        self._container = buildah("from", "--pull-never", name)
        self.root = Path(buildah("mount", self._container))
        # What an engine puts there before the container starts.
        (self.root / "etc" / "hosts").touch()
        (self.root / "run" / "secrets").mkdir(exist_ok=True)

    def remove(self) -> None:
        """The folder goes; the image stays."""
        buildah("rm", self._container)


class Composition:
    """The services of docker-compose.yml, as many as are started."""

    def __init__(self, folder: Path, images: dict[str, Image]) -> None:
        self.folder = folder
        self.services = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]
        self.images = images
        self._stack = ExitStack()
        self._network = 0

    def open(self) -> None:
        """Makes the network, the secrets and the servers."""
        holder = self._run(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && exec sleep infinity"], "network"
        )
        self._network = holder.pid
        wait_for(
            lambda: self.inside("ip", "address", "show", "dev", "lo").stdout.count("127.0.0.1"), "network"
        )
        (self.folder / "hosts").write_text(HOSTS)
        (self.folder / "secrets").mkdir()
        data = self.folder / "servers"
        for name in ("postgres_password", "redis_password", "secret_key", "metrics_token"):
            (self.folder / "secrets" / name).write_text(ensure_secret(data, name) + "\n")
        (self.folder / "secrets" / "hf_token").touch()
        redis, postgres = EmbeddedRedis(data), EmbeddedPostgres(data, durable=False)
        redis.prepare()
        self._run(self._joined([*redis.command, "--port", "6379"]), "redis", **redis.popen_options)
        postgres.prepare()
        options = postgres.popen_options
        user = f"--reuid={options.pop('user', 0)}", f"--regid={options.pop('group', 0)}", "--clear-groups"
        options.pop("extra_groups", None)
        command = ["setpriv", *user, *postgres.command, "-h", "127.0.0.1"]
        self._run(self._joined(command), "postgres", **options)
        postgres.wait_ready()
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            password = sql.Literal(read_secret(data, "postgres_password"))
            connection.execute(sql.SQL("CREATE ROLE imagegen LOGIN SUPERUSER PASSWORD {}").format(password))

    def close(self) -> None:
        """Ends what is still running, the last started first."""
        self._stack.close()

    def command(self, service: str, *arguments: str) -> list[str]:
        """A container of a service, as a command line; without arguments it runs what the file or the image says."""
        described = self.services[service]
        image = self.images[described["build"]["target"]]
        environment = image.environment | described["environment"]
        inside = [*image.config["Entrypoint"], *(arguments or described.get("command", image.config["Cmd"]))]
        confined = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--clear-groups"]
        user, _, group = image.config["User"].partition(":")
        identity = [f"--reuid={user}", f"--regid={group}"]
        variables = [f"{name}={value}" for name, value in environment.items()]
        return self._joined(
            [
                *("unshare", "--mount", "--pid", "--fork", "sh", "-c", _ENTER, service),
                *(str(image.root), str(self.folder / "hosts"), str(self.folder / "secrets")),
                *(f"{self._volume(name)}:{target}" for name, target in map(_parts, described["volumes"])),
                *("--", "setpriv", *confined, *identity, "env", "-i", "-C", image.config["WorkingDir"]),
                *variables,
                *inside,
            ]
        )

    def start(self, service: str) -> psutil.Process:
        """A running container: its first process."""
        parent = self._run(self.command(service), service)
        wait_for(lambda: parent.poll() is not None or _container(parent.pid), service)
        assert parent.poll() is None, self.log(service)
        return _container(parent.pid)[0]

    def run(self, service: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """A container that ends by itself."""
        return subprocess.run(
            self.command(service, *arguments), capture_output=True, text=True, timeout=SAFETY_S, check=False
        )

    def inside(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """A command of this machine, in the network of the containers."""
        return subprocess.run(
            self._joined(command), capture_output=True, text=True, timeout=SAFETY_S, check=False
        )

    def ask(self, path: str, *, token: str = "", body: object = None) -> tuple[int, str]:
        """Status and body of what the web service answers; 0 while there is nobody."""
        text = json.dumps(body) if body is not None else ""
        done = self.inside(sys.executable, "-c", _ASK, f"http://127.0.0.1:8000{path}", token, text)
        status, _, answer = done.stdout.partition(" ")
        return int(status), answer

    def log(self, service: str) -> str:
        """What a container has printed."""
        return (self.folder / f"{service}.log").read_text()

    def _joined(self, command: Sequence[str]) -> list[str]:
        return ["nsenter", f"--net=/proc/{self._network}/ns/net", *command]

    def _volume(self, name: str) -> Path:
        """A named volume: new ones belong to whom the folder in the image belongs to."""
        folder = self.folder / "volumes" / name
        if not folder.exists():
            folder.mkdir(parents=True)
            os.chown(folder, USER, USER)
        return folder

    def _run(self, command: Sequence[str], name: str, **options: Any) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, **options)
        self._stack.callback(_end, process)
        return process


def healthcheck(image: Image) -> list[str]:
    """The command of an image's HEALTHCHECK, as a container's arguments."""
    kind, *command = image.config["Healthcheck"]["Test"]
    return command if kind == "CMD" else shlex.split(f"sh -c {shlex.quote(command[0])}")


def _parts(volume: str) -> tuple[str, str]:
    name, _, target = volume.partition(":")
    return name, target


def _container(parent: int) -> list[psutil.Process]:
    """The first process of a container that stands: the image's entry point, no longer what leads to it."""
    return [child for child in psutil.Process(parent).children() if child.name() == "tini"]


def _end(process: "subprocess.Popen[bytes]") -> None:
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.wait(SAFETY_S)
