"""Bodies through the real web server: whole, in pieces, bounded by route, by sender, in room and in time."""

import contextlib
import hashlib
import http.client
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

# A process of its own, and hundreds of megabytes through it.
pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parents[4]
UPLOAD = "/api/v1/loras/upload"
PICTURES = "/api/v1/generations"
SAFETY_S = 120.0


@contextlib.contextmanager
def serve(
    folder: Path, address: list[str], application: str, *, file_bytes: int | None = None, **variables: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """daphne with an application of the tests; needs neither database nor Redis.

    `file_bytes`: how large a file may grow, in the place of a disk that is full.
    """
    environment = {
        **os.environ,
        "DATA_DIR": str(folder),
        "DJANGO_SETTINGS_MODULE": "imagegen_project.settings",
        "SECRET_KEY": "only-for-this-test-" + "0123456789" * 4,
        "DATABASE_URL": "postgresql://localhost/none",
        "REDIS_URL": "redis://localhost:1/0",
        "LORA_MAX_UPLOAD_MB": "400",
        "TMPDIR": str(folder),
        **variables,
    }

    def limit() -> None:
        if file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    command = [sys.executable, "-m", "daphne", "-v", "0", *address, application]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdout=log,
            stderr=log,
            preexec_fn=limit,  # noqa: PLW1509 - nothing but a system call
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(SAFETY_S)


@contextlib.contextmanager
def counting(folder: Path, *, file_bytes: int | None = None, **variables: str) -> Iterator[Path]:
    """daphne on a socket, with the gate and an application that counts."""
    address = folder / "http.sock"
    application = "tests.support.counting_app:application"
    with serve(folder, ["-u", str(address)], application, file_bytes=file_bytes, **variables) as process:
        deadline = time.monotonic() + SAFETY_S
        while not address.exists():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield address


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A server with the usual settings."""
    with counting(tmp_path_factory.mktemp("bodies")) as address:
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
    headers = {"Authorization": "Bearer ada"} | headers
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
    status, said = post(server, PICTURES, iter([data] if data else []), size if declared else None)
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


MIB = "MiB (MAX_BODY_MB)"
NO_FORM = {"Content-Type": "application/octet-stream"}


@pytest.mark.parametrize(
    ("path", "kilobytes", "refused"),
    [
        (PICTURES, 16 * 1024, None),
        (PICTURES, 16 * 1024 + 1, MIB),
        ("/hf/org/model", 16 * 1024 + 1, MIB),
        ("/v1/images/generations", 384, None),
        (UPLOAD, 20 * 1024, None),
        ("/v1/loras/upload/", 20 * 1024, None),
        ("/admin/loras/lora/add/", 20 * 1024, None),
        (UPLOAD, 401 * 1024, "(LORA_MAX_UPLOAD_MB)"),
        ("/api/v1/loras/upload/more", 257, "256 KiB"),
        ("/api/v1/loras/load", 256, None),
        ("/api/v1/loras/load", 257, "256 KiB"),
        ("/sdapi/v1/options", 257, "256 KiB"),
        ("/admin/auth/user/1/change/", 257, "256 KiB"),
        ("/admin/login/", 9, "8 KiB"),
        ("/sign-in/", 9, "8 KiB"),
        ("/", 9, "8 KiB"),
        ("/health/ready", 1, "No body"),
        ("/metrics", 1, "No body"),
    ],
)
def test_every_path_takes_only_what_it_needs(
    server: Path, path: str, kilobytes: int, refused: str | None
) -> None:
    """413 says how much that is, and names the setting where there is one."""
    length = kilobytes * 1024
    pieces = (bytes(1024) for _ in range(kilobytes))
    status, said = post(server, path, pieces, length, **NO_FORM)
    assert status == (413 if refused else 200)
    if refused:
        assert refused in str(said["detail"])


@pytest.mark.parametrize("path", [UPLOAD, PICTURES])
def test_a_form_for_text_is_never_large(server: Path, path: str) -> None:
    """Read, it would take ten times its size."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    length = 257 * 1024
    assert post(server, path, iter([bytes(length)]), length, **headers)[0] == 413


def sent(client: socket.socket, path: str, *headers: str, body: bytes = b"") -> None:
    """Sends a POST's head, and perhaps some of its body."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", *headers, "", ""]
    client.settimeout(SAFETY_S)
    client.sendall("\r\n".join(lines).encode() + body)


class Answers:
    """The answers on a connection, one after the other; the parser takes it for the socket and for its file."""

    def __init__(self, client: socket.socket) -> None:
        self.file = client.makefile("rb")

    def makefile(self, mode: str) -> Any:
        """This, which the parser cannot close."""
        return self

    def close(self) -> None:
        """Nothing: the next answer is read from the same file."""

    def flush(self) -> None:
        """Nothing."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def next(self) -> tuple[int, dict[str, Any], dict[str, str]]:
        """The next one: status, body, headers."""
        answer = http.client.HTTPResponse(self)  # type: ignore[arg-type]
        answer.begin()
        return answer.status, json.loads(answer.read()), dict(answer.headers)


def answer_of(client: socket.socket) -> tuple[int, dict[str, Any], dict[str, str]]:
    """The only answer that is on its way on a connection: status, body, headers."""
    return Answers(client).next()


@contextlib.contextmanager
def connected(server: Path) -> Iterator[socket.socket]:
    """A connection to the server."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(server))
        yield client


ADA, BOB = "Authorization: Bearer ada", "Authorization: Bearer bob"
LENGTH = "Content-Length: {}".format
CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize("expect", ["X-Nothing: 1", "Expect: 100-continue"])
@pytest.mark.parametrize(
    ("who", "length", "status"), [(ADA, 20_000_000, 413), ("X-Nobody: 1", 1_000_000, 401)]
)
def test_a_head_that_is_refused_is_answered_before_its_body(
    server: Path, who: str, length: int, status: int, expect: str
) -> None:
    """Without `100 Continue`, which would ask for it."""
    with connected(server) as client:
        sent(client, PICTURES, LENGTH(length), who, expect)
        got, said, headers = answer_of(client)
        assert (got, headers["Connection"]) == (status, "close")
        assert ("WWW-Authenticate" in headers) == (status == 401)
        assert said["status"] == status
        assert client.recv(1) == b"", "the connection ends"


def test_a_body_that_is_taken_is_asked_for(server: Path) -> None:
    """`100 Continue`, once it is known who sends it."""
    with connected(server) as client:
        sent(client, PICTURES, LENGTH(100_000), ADA, "Expect: 100-continue")
        assert client.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(bytes(100_000))
        assert answer_of(client)[:2][1]["length"] == 100_000


def test_little_is_taken_from_anybody(server: Path) -> None:
    """The application says who may; what grows beyond that without a declared length is refused as it grows."""
    with connected(server) as client:
        sent(client, PICTURES, LENGTH(32 * 1024), body=bytes(32 * 1024))
        assert answer_of(client)[1]["length"] == 32 * 1024
        sent(client, PICTURES, CHUNKED, body=b"8001\r\n" + bytes(0x8001) + b"\r\n")
        assert answer_of(client)[0] == 401


def test_several_bodies_on_one_connection(server: Path) -> None:
    """Small, large, in chunks, and what comes behind them."""
    with connected(server) as client:
        for size in (10, 100_000, 0, 40_000):
            sent(client, PICTURES, LENGTH(size), ADA, body=bytes(size))
        answers = Answers(client)
        for size in (10, 100_000, 0, 40_000):
            assert answers.next()[1]["length"] == size


def test_what_is_refused_is_kept_nowhere_and_its_sender_reads_why(server: Path) -> None:
    """Though it sends all of it first."""
    piece = bytes(1024 * 1024)
    with connected(server) as client:
        sent(client, PICTURES, CHUNKED, ADA)
        for _ in range(60):
            client.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        assert largest_file(server) <= 16 * len(piece)
        client.sendall(b"0\r\n\r\n")
        assert answer_of(client)[0] == 413


def test_room_is_given_back(server: Path) -> None:
    """By what ends, what is refused and what hangs up."""
    with connected(server) as client:
        sent(client, PICTURES, LENGTH(1_000_000), ADA, body=bytes(500_000))
    with connected(server) as client:
        sent(client, PICTURES, LENGTH(20_000), body=bytes(10_000))
    deadline = time.monotonic() + SAFETY_S
    while True:
        said = post(server, PICTURES, iter([]), 0)[1]
        if (said["memory"], said["files"]) == (0, 0):
            break
        assert time.monotonic() < deadline, said


def test_bodies_together_are_bounded_for_one_user_and_for_all(tmp_path: Path) -> None:
    """By what they declare, before it comes."""
    with counting(tmp_path, BODY_STORE_MB="8") as server:
        with connected(server) as first, connected(server) as second, connected(server) as third:
            sent(first, PICTURES, LENGTH(3_000_000), ADA)
            sent(second, PICTURES, LENGTH(1_000_000), ADA)
            status, said, headers = answer_of(second)
            assert (status, said["code"], "Retry-After" in headers) == (429, "too_many_bodies", True)
            sent(third, PICTURES, LENGTH(2_000_000), BOB)
            status, said, headers = answer_of(third)
            assert (status, said["code"], "Retry-After" in headers) == (503, "too_many_bodies", True)
            with connected(server) as fourth:  # nothing declared
                chunk = b"100000\r\n" + bytes(1024 * 1024) + b"\r\n"
                sent(fourth, PICTURES, CHUNKED, BOB, body=chunk * 2)
                assert answer_of(fourth)[0] == 503
            first.sendall(bytes(3_000_000))
            assert answer_of(first)[0] == 200
        assert post(server, PICTURES, iter([bytes(9_000_000)]), 9_000_000)[0] == 200, "the only one there is"


def test_a_disk_that_takes_no_more_is_said(tmp_path: Path) -> None:
    """507 and a line in the log; the next small one works."""
    with counting(tmp_path, file_bytes=100_000) as server:
        status, said = post(server, PICTURES, iter([bytes(300_000)]), 300_000)
        assert (status, said["code"]) == (507, "insufficient_storage")
        assert post(server, PICTURES, iter([bytes(50_000)]), 50_000)[0] == 200
        assert "no space for a body" in (tmp_path / "log").read_text()


def test_a_body_that_stops_coming_is_given_up(tmp_path: Path) -> None:
    """408, whether it lies in memory or in a file."""
    with counting(tmp_path, BODY_PATIENCE_S="0.5") as server:
        for size in (1_000, 10_000_000):
            with connected(server) as client:
                sent(client, PICTURES, LENGTH(size), ADA, body=bytes(size // 100))
                status, said, _ = answer_of(client)
                assert (status, said["code"]) == (408, "body_too_slow"), size


def largest_file(server: Path) -> int:
    """The bytes of the largest file that the server has open; those of bodies have no name."""
    [process] = [
        one for one in psutil.process_iter(["cmdline"]) if str(server) in (one.info["cmdline"] or [])
    ]
    return max(path.stat().st_size for path in Path(f"/proc/{process.pid}/fd").iterdir() if path.is_file())
