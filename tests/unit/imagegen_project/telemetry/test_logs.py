"""Logs: lines of JSON without secrets, in files that end."""

import base64
import json
import logging
import logging.config
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from imagegen_project.common.context import address, username
from imagegen_project.telemetry import logs
from imagegen_project.telemetry.logs import StrangersFilter, logging_config
from imagegen_project.telemetry.redaction import RedactingJsonFormatter, Redactor

PROGRAM = """
import logging, sys
from imagegen_project.telemetry.logs import RotatingFile
handler = RotatingFile(sys.argv[1], max_bytes=2000, keep=50)
log = logging.getLogger("x")
log.addHandler(handler)
log.setLevel("INFO")
for number in range(200):
    log.info("%s %03d %s", sys.argv[2], number, "." * 40)
"""

HUB = "hf_" + "abcdefghijkLMNOPQRSTUVWX0123456789"
LOCAL = "img_" + "0123456789abcdef" * 4
WEBHOOK = "whsec_" + "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"
KEY = 'the"signing\\key of this service'
PICTURE = base64.b64encode(bytes(range(256)) * 4).decode()
SECRETS = (HUB[3:], LOCAL[4:], WEBHOOK[6:], json.dumps(KEY)[1:-1], KEY, PICTURE[:60], "hunter2hunter2")


def line(record: logging.LogRecord) -> str:
    formatter = RedactingJsonFormatter("%(levelname)s %(name)s %(message)s", secrets=[KEY, ""])
    return formatter.format(record)


def record(message: str, *args: Any, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("x", logging.INFO, "file.py", 1, message, args, None)
    made.__dict__.update(extra)
    return made


PLACES: dict[str, dict[str, Any]] = {
    "message": {"message": f"got {HUB} and {LOCAL} from {WEBHOOK} with {KEY} and {PICTURE}"},
    "header": {
        "message": f"{{'Authorization': 'Bearer {HUB}', 'X': 'Basic aHVudGVyMmh1bnRlcjI6aHVudGVyMg=='}}"
    },
    "query": {"message": "GET /ws/?after=1&ticket=hunter2hunter2&x=1"},
    "address": {"message": "postgresql://me:hunter2hunter2@host/db and redis://:hunter2hunter2@host:6379/0"},
    "repr": {"message": "{'password': 'hunter2hunter2', \"api_key\": \"hunter2hunter2\"}"},
    "form": {"message": "csrftoken=hunter2hunter2; sessionid=hunter2hunter2; a=b"},
    "field": {"message": "x", "token": LOCAL, "nested": {"deep": [HUB, {"secret": "hunter2hunter2"}]}},
    "key": {"message": "x", HUB: 1},
    "data uri": {"message": f"data:image/png;base64,{PICTURE}"},
    "signed address": {"message": "https://s3/x.png?X-Amz-Signature=hunter2hunter2&X-Amz-Expires=5"},
}


@pytest.mark.parametrize("place", PLACES)
def test_secrets_leave_the_line(place: str) -> None:
    """Wherever they stand; what is left is a JSON object, and says that something was there."""
    fields = dict(PLACES[place])
    text = line(record(fields.pop("message"), **fields))
    assert not [secret for secret in SECRETS if secret in text]
    assert "redacted" in text or "characters of base64" in text
    assert json.loads(text)["name"] == "x"


def _break() -> None:
    raise RuntimeError(f"cannot use {LOCAL} {KEY}") from ValueError(HUB)


def test_secrets_leave_tracebacks() -> None:
    """Of chained errors too, and arguments that are formatted late."""
    try:
        _break()
    except RuntimeError:
        made = logging.LogRecord("x", logging.ERROR, "file.py", 1, "%s failed", (PICTURE,), sys.exc_info())
    text = line(made)
    assert not [secret for secret in SECRETS if secret in text]
    assert "RuntimeError: cannot use" in json.loads(text)["exc_info"]


@pytest.mark.parametrize(
    "text",
    [
        "hf_hub_download and img_size_of_all are functions",
        "bearer authentication, basic authentication",
        "sha256 " + "0123456789abcdef" * 4,
        "the token is unknown; tokens=12",
        "https://huggingface.co:443/api/models@main",
        "/api/v1/generations/01a2069e-43ea-7391-b6d0-c7cfd413799f/images/0",
    ],
)
def test_ordinary_lines_stay(text: str) -> None:
    if "tokens=" in text:
        assert "the token is unknown" in Redactor([KEY])(text)
    else:
        assert Redactor([KEY])(text) == text


def test_a_request_with_secrets_everywhere_logs_none(
    client: Client, db: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the whole configuration: what a request carries, in path, query, header, cookie and body."""
    config = logging_config(
        level="DEBUG", log_dir=str(tmp_path), max_bytes=10**6, keep=1, stranger_lines=0, secrets=[KEY]
    )
    written: list[str] = []
    before = list(logging.getLogger().handlers)
    try:
        logging.config.dictConfig(config)
        client.cookies["sessionid"] = "hunter2hunter2"
        client.post(
            f"/api/v1/generations/{HUB}?ticket=hunter2hunter2&token={LOCAL}",
            json.dumps({"prompt": PICTURE, "password": "hunter2hunter2", "image": PICTURE}),
            content_type="application/json",
            headers={
                "Authorization": f"Bearer {LOCAL}",
                "X-Request-Id": HUB,
                "Referer": f"http://x/?key={HUB}",
            },
        )
        logging.getLogger("any.library").error("sent %r", {"headers": {"authorization": f"Bearer {HUB}"}})
        written = [text for file in tmp_path.glob("*.jsonl") for text in file.read_text().splitlines()]
    finally:
        for handler in list(logging.getLogger().handlers):
            handler.close()
        logging.getLogger().handlers[:] = before
    assert len(written) >= 2
    assert all(isinstance(json.loads(text), dict) for text in written)
    assert not [secret for secret in SECRETS if secret in "\n".join(written)]


def test_files_that_processes_share_are_rotated_without_loss(tmp_path: Path) -> None:
    """Three processes write; every line is there once, in files within the size and a line."""
    file = tmp_path / "log.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", PROGRAM, str(file), name]) for name in "abc"]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    files = sorted(tmp_path.glob("log.jsonl*"))
    assert len(files) > 5
    lines = [text for part in files for text in part.read_text().splitlines()]
    assert sorted(text[:5] for text in lines) == [
        f"{name} {number:03}" for name in "abc" for number in range(200)
    ]
    assert max(part.stat().st_size for part in files) <= 2000 + 3 * 60


def test_only_so_many_files_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    program = PROGRAM.replace("keep=50", "keep=2")
    subprocess.run([sys.executable, "-c", program, str(file), "a"], check=True)
    assert {part.name for part in tmp_path.glob("log*")} <= {"log.jsonl", "log.jsonl.1", "log.jsonl.2"}
    assert (tmp_path / "log.jsonl.2").is_file()


def test_a_line_is_as_long_as_we_want_not_as_a_stranger_does() -> None:
    """Paths and hosts are cut; a traceback is not."""
    formatter = RedactingJsonFormatter("%(message)s")
    record = logging.LogRecord("n", logging.INFO, "p", 1, "host %s", ("a.b/" * 4000,), None)
    record.path = "/x.y" * 4000
    line = formatter.format(record)
    assert len(line) < 3000
    assert json.loads(line)["path"].endswith("… (16000 characters)")


@pytest.fixture
def bounded(tmp_path: Path) -> Iterator[StrangersFilter]:
    """The whole configuration with five lines per stranger, and a file beside standard error."""
    config = logging_config(
        level="INFO", log_dir=str(tmp_path), max_bytes=10**6, keep=1, stranger_lines=5, secrets=[]
    )
    before = list(logging.getLogger().handlers)
    logging.config.dictConfig(config)
    found = {one for handler in logging.getLogger().handlers for one in handler.filters}
    (strangers,) = (one for one in found if isinstance(one, StrangersFilter))
    try:
        yield strangers
    finally:
        strangers.tell()
        for handler in list(logging.getLogger().handlers):
            handler.close()
        logging.getLogger().handlers[:] = before


def written(folder: Path) -> list[dict[str, Any]]:
    """What is in the file."""
    return [json.loads(text) for file in folder.glob("*.jsonl") for text in file.read_text().splitlines()]


def say(times: int, *, by: str = "", user: str = "") -> None:
    """Lines of requests from an address."""
    tokens = address.set(by), username.set(user)
    for _ in range(times):
        logging.getLogger("imagegen.request").info("request", extra={"from": by or "inside"})
    username.reset(tokens[1])
    address.reset(tokens[0])


def test_a_stranger_causes_so_many_lines_a_minute(bounded: StrangersFilter, tmp_path: Path) -> None:
    """The rest is one line with its number; users, other addresses and the service itself are not held up by it."""
    say(100, by="198.51.100.7")
    say(3, by="198.51.100.8")
    say(40, by="2001:db8::1")
    say(40, by="2001:db8::2")
    say(20, by="198.51.100.7", user="ada")
    say(20)
    assert Counter(line["from"] for line in written(tmp_path)) == {
        "198.51.100.7": 5 + 20,
        "198.51.100.8": 3,
        "2001:db8::1": 5,
        "inside": 20,
    }
    bounded.tell()
    told = [line for line in written(tmp_path) if line["message"] == "lines left out"]
    assert [(line["address"], line["lines"]) for line in told] == [
        ("198.51.100.7", 95),
        ("2001:db8::/64", 75),
    ]
    say(1, by="198.51.100.7")
    assert written(tmp_path)[-1]["from"] == "198.51.100.7"


def test_many_addresses_are_bounded_too(
    bounded: StrangersFilter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither memory nor the lines that tell of them grow with their number."""
    monkeypatch.setattr(logs, "MAX_ADDRESSES", 30)
    for number in range(100):
        say(6, by=f"198.51.100.{number}")
    assert len(written(tmp_path)) == 31 * 5
    bounded.tell()
    told = [line for line in written(tmp_path) if line["message"] == "lines left out"]
    assert len(told) == logs.MAX_TOLD + 1
    assert sum(line["lines"] for line in told) == 600 - 31 * 5


def test_the_minute_ends_by_itself(
    bounded: StrangersFilter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nobody says anything any more."""
    monkeypatch.setattr(logs, "WINDOW_S", 0.01)
    say(9, by="198.51.100.7")
    timer = bounded._end
    if timer is not None:
        timer.join()
    assert [line["lines"] for line in written(tmp_path) if "lines" in line] == [4]


def test_requests_without_an_account_count(
    bounded: StrangersFilter, client: Client, db: None, tmp_path: Path
) -> None:
    """By the address they come from, whatever they ask for."""
    for number in range(20):
        client.get(f"/nowhere/{number}", REMOTE_ADDR="198.51.100.7")
    assert len(written(tmp_path)) == 5
    bounded.tell()
    told = written(tmp_path)[-1]
    assert (told["address"], told["lines"] >= 15) == ("198.51.100.7", True)
