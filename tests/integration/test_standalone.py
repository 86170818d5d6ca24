"""`manage.py standalone` as a newcomer meets it: a whole service on one folder, through crashes and restarts."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from PIL import Image

from tests.support.service import SAFETY_S, Service, gone, run, wait_for


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder that lives through the starts, crashes and stops of this module, in the order of the tests."""
    return tmp_path_factory.mktemp("standalone") / "data"


@pytest.fixture(scope="module")
def killed_service(data_dir: Path) -> Iterator[tuple[str, list[psutil.Process]]]:
    """What a first start printed, and the processes of that service, whose supervisor was killed."""
    service = Service(data_dir)
    service.wait_ready()
    output, family = service.output(), service.family()
    service.end(signal.SIGKILL)
    yield output, family
    for process in family:
        if process.is_running():
            process.kill()


@pytest.fixture(scope="module")
def first_picture(
    killed_service: tuple[str, list[psutil.Process]], data_dir: Path
) -> tuple["subprocess.CompletedProcess[str]", Path]:
    """What `--once` did on the folder of the killed service, and the file it was told to write."""
    out = data_dir.parent / "circle.png"
    return (
        run(data_dir, "--once", "a large red circle on a white background", "--out", str(out), "--seed", "7"),
        out,
    )


@pytest.fixture(scope="module")
def second_service(
    first_picture: tuple["subprocess.CompletedProcess[str]", Path], data_dir: Path
) -> Iterator[Service]:
    """The service started once more on the same folder."""
    service = Service(data_dir)
    service.wait_ready()
    yield service
    if service.process.poll() is None:
        service.end(signal.SIGKILL)


def test_first_start_says_how_to_go_on(
    killed_service: tuple[str, list[psutil.Process]], data_dir: Path
) -> None:
    output, _family = killed_service
    assert re.search(r"^Ready after [\d.]+ s\.$", output, flags=re.MULTILINE)
    for expected in ("curl ", str(data_dir / "secrets" / "admin_password"), "data/logs"):
        assert expected in output
    (to_open,) = re.findall(r"^\s*(http\S+)$", output, flags=re.MULTILINE)
    assert "/sign-in/once/" in to_open


def test_the_link_that_it_prints_signs_in_once_and_is_in_no_log(
    second_service: Service, data_dir: Path
) -> None:
    """A look uses up nothing; what is logged of it is where it leads, and not what it says."""
    (link,) = re.findall(r"http://\S+/sign-in/once/\S+/", second_service.output())
    with httpx2.Client(follow_redirects=True) as browser:
        page = browser.get(link)
        assert "Sign in as local?" in page.text
        token = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)[0]
        form = {"csrfmiddlewaretoken": token}
        assert browser.post(link, data=form, headers={"Accept": "text/html"}).status_code == 200
        assert "sessionid" in browser.cookies
        assert browser.get(link).status_code == 404
    nonce = link.rstrip("/").rpartition("/")[2]
    logs = [file.read_text(errors="replace") for file in (data_dir / "logs").rglob("*") if file.is_file()]
    assert any("/sign-in/once/[redacted]" in text for text in logs)
    assert not [text for text in logs if nonce in text]


def test_no_orphan_outlives_a_killed_supervisor(killed_service: tuple[str, list[psutil.Process]]) -> None:
    _output, family = killed_service
    assert len(family) >= 6  # two servers, web, two workers and what PostgreSQL starts itself
    wait_for(lambda: gone(family), "the end of all processes")


def test_once_writes_a_picture_after_a_crash(
    first_picture: tuple["subprocess.CompletedProcess[str]", Path],
) -> None:
    done, out = first_picture
    assert done.returncode == 0, done.stdout + done.stderr
    with Image.open(out) as picture:
        assert (picture.format, picture.size) == ("PNG", (512, 512))
        stored = json.dumps(picture.info, default=str)
    assert "a large red circle on a white background" in stored
    assert "seed 7, model " in done.stdout
    assert str(out) in done.stdout
    assert re.search(r"step \d+/\d+", done.stderr)


def test_second_start_finds_old_generations(second_service: Service, data_dir: Path) -> None:
    listed: dict[str, Any] = json.loads(second_service.get("/api/v1/generations"))
    (generation,) = listed["results"]
    assert (generation["status"], generation["seed"]) == ("succeeded", 7)
    with Image.open(
        io.BytesIO(second_service.get(f"/api/v1/generations/{generation['id']}/images/0"))
    ) as picture:
        assert picture.size == (512, 512)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_printed_curl_works_as_pasted(second_service: Service, tmp_path: Path) -> None:
    pasted = second_service.output().partition("another terminal:")[2].partition("Ctrl-C")[0]
    subprocess.run(["sh", "-c", pasted], cwd=tmp_path, timeout=SAFETY_S, check=True)
    with Image.open(tmp_path / "circle.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (512, 512))


@pytest.mark.parametrize(
    "name", ["token", "secrets/admin_password", "secrets/secret_key", "secrets/postgres_password"]
)
def test_secrets_are_private(second_service: Service, data_dir: Path, name: str) -> None:
    assert (data_dir / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["logs", "media", "secrets"])
def test_folders_are_closed_to_others(second_service: Service, data_dir: Path, name: str) -> None:
    assert (data_dir / name).stat().st_mode & 0o777 == 0o700


def test_token_and_password_stay_out_of_output_and_logs(second_service: Service, data_dir: Path) -> None:
    texts = [second_service.output(), *(log.read_text() for log in (data_dir / "logs").glob("*.log"))]
    for name in ("token", "secrets/admin_password", "secrets/secret_key", "secrets/redis_password"):
        secret = (data_dir / name).read_text().strip()
        assert not any(secret in text for text in texts), name


def test_once_is_drawn_by_the_service_that_runs(
    second_service: Service, data_dir: Path, tmp_path: Path
) -> None:
    done = run(data_dir, "--once", "a blue star", "--out", str(tmp_path / "star.png"))
    assert done.returncode == 0, done.stderr
    assert f"Drawn by the service that runs at http://127.0.0.1:{second_service.port}." in done.stdout
    with Image.open(tmp_path / "star.png") as picture:
        assert picture.format == "PNG"


def test_folder_in_use_is_said(second_service: Service, data_dir: Path) -> None:
    """To another start, on its port, too, with where it is and how to stop it; and to `--once` until it is ready."""
    port, note = second_service.port, data_dir / "address"
    address = note.read_text()
    assert address == f"http://127.0.0.1:{port}"
    started = run(data_dir, "--port", str(port))
    assert f"at {address}: use that one, stop it with --stop" in started.stderr
    note.unlink()
    try:
        drawn = run(data_dir, "--once", "anything")
    finally:
        note.write_text(address)
    for done in (started, drawn):
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert f"Another imagegen (process {second_service.process.pid}) uses the data folder" in done.stderr


def test_taken_port_is_said(second_service: Service, tmp_path: Path) -> None:
    done = run(tmp_path / "other", "--port", str(second_service.port))
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"CommandError: Port {second_service.port} on 127.0.0.1 is taken: choose another with --port."
    )


def test_workers_load_before_their_servers_start(second_service: Service) -> None:
    """Since they take the longest."""

    def began(word: str) -> float:
        named = (
            process for process in second_service.family() if any(word in part for part in process.cmdline())
        )
        return min(process.create_time() for process in named)

    assert began("gpu_worker") < min(began("bin/postgres"), began("redis-server"))
    assert max(began("bin/postgres"), began("redis")) < began("daphne")


def test_a_setting_that_cannot_be_is_said_in_one_line(tmp_path: Path) -> None:
    """Also where it shows only once workers have begun."""
    done = run(tmp_path / "data", variables={"SECRET_KEY": "too short"})
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("CommandError: SECRET_KEY is guessable")


def test_dead_child_is_started_again(second_service: Service) -> None:
    """A killed task worker comes back (one child stands for all)."""

    def task_workers() -> set[int]:
        found = set()
        for process in second_service.family():
            with suppress(psutil.NoSuchProcess):  # a zombie has no command line
                if "task_worker" in process.cmdline():
                    found.add(process.pid)
        return found

    before = task_workers()
    os.kill(next(iter(before)), signal.SIGKILL)
    wait_for(lambda: task_workers() - before, "a restart")


def test_stop_leaves_nothing_behind(second_service: Service, data_dir: Path) -> None:
    """`--stop` is SIGTERM to the right process; run last on the folder."""
    family = second_service.family()
    done = run(data_dir, "--stop")
    assert (done.returncode, done.stdout.strip()) == (0, f"Stopped process {second_service.process.pid}.")
    assert second_service.process.wait(SAFETY_S) == 0
    assert gone(family)
    assert not (data_dir / "postgres" / "postmaster.pid").exists()
    assert run(data_dir, "--stop").stdout.startswith("Nothing runs on ")


def test_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run(tmp_path / "file" / "data", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot be written" in done.stderr


@pytest.mark.parametrize(
    ("variable", "url", "said"),
    [
        (
            "DATABASE_URL",
            "postgresql://someone:secret-word@127.0.0.1:9/imagegen",
            "The database of DATABASE_URL",
        ),
        ("REDIS_URL", "redis://:secret-word@127.0.0.1:9/0", "The Redis of REDIS_URL"),
        ("REDIS_URL", "nonsense", "The Redis of REDIS_URL"),
    ],
)
def test_server_that_does_not_answer_is_said(tmp_path: Path, variable: str, url: str, said: str) -> None:
    """Before the migrations, and without its password."""
    other = {"DATABASE_URL": "REDIS_URL", "REDIS_URL": "DATABASE_URL"}[variable]
    done = run(tmp_path / "data", variables={variable: url, other: ""})
    assert done.returncode == 1
    assert f"{said} cannot be used: " in done.stderr
    assert "secret-word" not in done.stderr + done.stdout


def test_missing_folder_of_the_picture_is_said_before_anything_starts(tmp_path: Path) -> None:
    done = run(tmp_path / "data", "--once", "anything", "--out", str(tmp_path / "missing" / "out.png"))
    assert done.returncode == 1
    assert "There is no folder" in done.stderr
    assert not (tmp_path / "data" / "postgres").exists()
