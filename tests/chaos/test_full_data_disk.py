"""The disk of everything is full: PostgreSQL's log, Redis' file, logs and pictures."""

import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import psycopg
import pytest

from imagegen_project.standalone import paths
from tests.support.disks import Disk, small_disk
from tests.support.live import Live
from tests.support.service import Service, wait_for


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[tuple[Live, Disk]]:
    """A service whose data folder is a small disk."""
    with small_disk(tmp_path / "data", megabytes=256) as disk:
        service = Service(disk.folder, LEASE_S="5", WORKER_GRACE_S="1")
        try:
            service.wait_ready()
            client = Live(service)
            with client.http:
                yield client, disk
        finally:
            service.end(signal.SIGTERM)


@pytest.mark.long
def test_what_was_answered_outlasts_a_full_disk(crowded: tuple[Live, Disk]) -> None:
    """PostgreSQL ends for want of room in its log; nobody gets a bare 500, and with room everything goes on."""
    live, disk = crowded
    done = live.create()["id"]
    live.wait(done, "succeeded")
    accepted = [done]
    answers: set[int] = set()

    def ask() -> bool:
        """Whether the database has given up; notes what was accepted."""
        with suppress(psycopg.Error), psycopg.connect(paths.database_url(disk.folder)) as connection:
            connection.execute("SELECT pg_switch_wal()")
        with suppress(httpx2.TransportError):
            answer = live.http.post("/api/v1/generations", json={"prompt": "a red circle", "steps": 2})
            answers.add(answer.status_code)
            if answer.status_code == 202:
                accepted.append(answer.json()["id"])
        return 503 in answers

    disk.fill()
    try:
        wait_for(ask, "an answer without a database")
    finally:
        disk.make_room()
    assert answers <= {202, 503, 507}, answers
    wait_for(lambda: live.http.get("/health/ready").status_code == 200, "readiness")
    for job in (*accepted, live.create()["id"]):
        assert live.wait(job)["status"] == "succeeded"
        assert live.picture(job)
