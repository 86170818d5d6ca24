"""Bodies through the real web server: whole, in pieces, capped by route, and never in memory when they are large."""

import contextlib
import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

REPOSITORY = Path(__file__).resolve().parents[4]
UPLOAD = "/api/v1/loras/upload"
SAFETY_S = 120.0


@contextlib.contextmanager
def serve(folder: Path, address: list[str], application: str) -> Iterator["subprocess.Popen[bytes]"]:
    """daphne with an application of the tests; needs neither database nor Redis."""
    environment = {
        **os.environ,
        "DATA_DIR": str(folder),
        "DJANGO_SETTINGS_MODULE": "imagegen_project.settings",
        "SECRET_KEY": "only-for-this-test-" + "0123456789" * 4,
        "DATABASE_URL": "postgresql://localhost/none",
        "REDIS_URL": "redis://localhost:1/0",
        "LORA_MAX_UPLOAD_MB": "400",
        "TMPDIR": str(folder),
    }
    command = [sys.executable, "-m", "daphne", "-v", "0", *address, application]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(SAFETY_S)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """daphne on a socket, with the gate and an application that counts."""
    folder = tmp_path_factory.mktemp("bodies")
    address = folder / "http.sock"
    with serve(folder, ["-u", str(address)], "tests.support.counting_app:application") as process:
        deadline = time.monotonic() + SAFETY_S
        while not address.exists():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield address


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket file."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=SAFETY_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SAFETY_S)
        self.sock.connect(str(self._path))


def post(
    server: Path, path: str, pieces: Iterator[bytes], length: int | None, **headers: str
) -> tuple[int, dict[str, object]]:
    """Sends a body, with its length or in chunks; the answer."""
    connection = UnixConnection(server)
    headers |= {} if length is None else {"Content-Length": str(length)}
    connection.request("POST", path, body=pieces, headers=headers, encode_chunked=length is None)
    answer = connection.getresponse()
    said = answer.status, json.loads(answer.read())
    connection.close()
    return said


@pytest.mark.parametrize("declared", [True, False], ids=["length", "chunked"])
@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 131_072, 200_000, 3_000_001])
def test_a_body_arrives_whole(server: Path, size: int, declared: bool) -> None:  # noqa: FBT001
    """Whatever its length, and however the client sends it."""
    data = bytes(number % 251 for number in range(size))
    status, said = post(server, "/", iter([data] if data else []), size if declared else None)
    assert (status, said["length"]) == (200, size)
    assert said["sha256"] == hashlib.sha256(data).hexdigest()


def test_an_upload_of_300_megabytes_costs_little_memory(server: Path) -> None:
    """It comes from the disk in pieces."""
    piece = bytes(1024 * 1024)
    status, said = post(server, UPLOAD, (piece for _ in range(300)), 300 * len(piece))
    assert (status, said["length"]) == (200, 300 * len(piece))
    assert int(str(said["pieces"])) > 1000
    assert int(str(said["grown_kb"])) < 50 * 1024


FORM = {"Content-Type": "multipart/form-data; boundary=limit"}


def test_a_form_of_300_megabytes_costs_little_memory(server: Path) -> None:
    """As adapters are uploaded; the server reads no form for itself."""
    piece = bytes(1024 * 1024)
    head = b'--limit\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    pieces = [head, *[piece] * 300, b"\r\n--limit--\r\n"]
    status, said = post(server, UPLOAD, iter(pieces), sum(map(len, pieces)), **FORM)
    assert (status, said["length"]) == (200, sum(map(len, pieces)))
    assert int(str(said["grown_kb"])) < 50 * 1024


def test_a_form_without_parts_is_the_applications_to_refuse(server: Path) -> None:
    """Not the server's, with an empty answer."""
    body = b"--limit--\r\n"
    status, said = post(server, "/", iter([body]), len(body), **FORM)
    assert (status, said["length"]) == (200, len(body))


@pytest.mark.parametrize(
    ("path", "megabytes", "allowed"),
    [
        ("/api/v1/generations", 20, False),
        (UPLOAD, 20, True),
        ("/v1/loras/upload/", 20, True),
        ("/admin/loras/lora/add/", 20, True),
        ("/api/v1/loras/upload/more", 20, False),
        ("/api/v1/loras/load", 20, False),
        (UPLOAD, 401, False),
    ],
)
def test_only_uploads_may_be_large(
    server: Path, path: str, megabytes: int, allowed: bool  # noqa: FBT001
) -> None:
    """413 names the setting that is in the way."""
    piece = bytes(1024 * 1024)
    status, said = post(server, path, (piece for _ in range(megabytes)), megabytes * len(piece))
    assert status == (200 if allowed else 413)
    if not allowed:
        setting = "LORA_MAX_UPLOAD_MB" if path == UPLOAD else "MAX_BODY_MB"
        assert setting in str(said["detail"])


def test_what_is_over_the_limit_is_kept_nowhere(server: Path) -> None:
    """Though a body is only refused once it has come whole, and its sender may be anybody."""
    piece = bytes(1024 * 1024)
    limit = 16 * len(piece)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(server))
        client.sendall(
            b"POST /api/v1/generations HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(60):
            client.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        assert limit <= largest_file(server) <= limit + 1
        client.sendall(b"0\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


def largest_file(server: Path) -> int:
    """The bytes of the largest file that the server has open; those of bodies have no name."""
    [process] = [
        one for one in psutil.process_iter(["cmdline"]) if str(server) in (one.info["cmdline"] or [])
    ]
    return max(path.stat().st_size for path in Path(f"/proc/{process.pid}/fd").iterdir() if path.is_file())
