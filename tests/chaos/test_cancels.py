"""The short form of the cancels."""

from tests.chaos.cancels import STEPS, cancels


def test_a_cancel_takes_effect_and_is_what_was_told() -> None:
    """On what was meant and nothing else, long before the end; against completion, one of both wins and all say so."""
    run = cancels(slow=20, races=40)
    assert not run.wrong, run.report()
    # A fraction: how many seconds it took is what the long form judges.
    assert max(run.steps) < STEPS / 4, run.report()
    assert {outcome.rpartition(" ")[2] for outcome in run.outcomes} == {"canceled", "succeeded"}
