"""A pipeline that hangs in C, holding Python's lock, costs one attempt and nothing else."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.live import Live
from tests.support.service import Service

FAILPOINTS = Path(__file__).parent / "failpoints"


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Live]:
    """A service whose worker hangs once when it is asked to."""
    service = Service(
        tmp_path / "data",
        PYTHONPATH=str(FAILPOINTS),
        HANG_ONCE=str(tmp_path / "hung"),
        WATCHDOG_S="5",
        LEASE_S="5",
    )
    try:
        service.wait_ready()
        client = Live(service)
        with client.http:
            yield client
    finally:
        service.end(signal.SIGTERM)


@pytest.mark.long
def test_a_step_that_hangs_ends_the_worker_and_not_the_job(hanging: Live) -> None:
    """The process ends itself and is started again; the job runs again with its seed, and its row says what was."""
    plain = hanging.wait(hanging.create(prompt="a red circle", seed=3)["id"])
    job = hanging.wait(hanging.create(prompt="a red circle that may hang", seed=3)["id"])
    assert (job["status"], job["attempt"], job["seed"]) == ("succeeded", 2, 3)
    assert [entry["reason"] for entry in job["attempt_log"]] == ["worker_lost"]
    assert plain["attempt_log"] == []
    log = (hanging.service.data_dir / "logs" / "gpu-worker.log").read_text()
    assert "Timeout (0:00:05)!" in log, "the stacks of all threads are in the worker's log"
