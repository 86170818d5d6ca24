"""The short form of the storm."""

from tests.chaos.storm import storm


def test_nothing_is_lost_and_nothing_is_there_twice() -> None:
    """However the processes die, every generation ends once, with its pictures, its feed and what its user was told."""
    run = storm(jobs=40, users=4, minutes=0.2)
    assert not run.wrong, run.report()
    assert run.recoveries, "a job was lost with its worker and drawn by another"
