"""The short form of the attack with bodies: answers, memory and no restart; no times."""

from collections.abc import Iterator

import pytest

from tests.attack.bodies import NOBODY, SHORT, attack
from tests.attack.target import MEMORY_LIMIT_BYTES, Target, target


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A service of its own."""
    with target(tmp_path_factory.mktemp("attacked")) as found, found.limited():
        yield found


def test_bodies_cost_little_and_are_answered(attacked: Target) -> None:
    """413 where no body belongs, 401 to nobody, 400 for what is no request, 408 for what never ends."""
    job = attacked.job()
    found = {}
    with attacked.watched() as seen:
        for body, route, sender in SHORT:
            found[body.name, route, sender] = attack(attacked, body, route, sender)
    attacked.job_ends(job)
    expected = dict.fromkeys(found, 413)
    for body in ("empty lists", "never ended"):
        expected[body, "/api/v1/generations", NOBODY] = 401
    expected["empty lists", "/api/v1/generations", "user"] = 400
    expected["never ended", "/api/v1/generations", "user"] = 408
    assert found == expected
    assert attacked.lives()
    assert seen[0].peak_bytes < MEMORY_LIMIT_BYTES / 2
