"""The short form of the attack: answers, memory and no restart; no times."""

from collections.abc import Iterator

import pytest

from tests.attack import addresses, files, pictures, sockets
from tests.attack.bodies import NOBODY, SHORT, attack
from tests.attack.cases import Case
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
            found[body.name, route, sender] = attack(body, route, sender, attacked)
    attacked.job_ends(job)
    expected = dict.fromkeys(found, 413)
    for body in ("empty lists", "never ended"):
        expected[body, "/api/v1/generations", NOBODY] = 401
    expected["empty lists", "/api/v1/generations", "user"] = 400
    expected["never ended", "/api/v1/generations", "user"] = 408
    assert found == expected
    assert attacked.lives()
    assert seen[0].peak_bytes < MEMORY_LIMIT_BYTES / 2


def few() -> Iterator[Case]:
    """Every twelfth case of the other families that a user sends; the doors differ from one to the next."""
    for family in (pictures, files, sockets, addresses):
        yield from [case for case in family.cases() if case.sender == "user"][::12]


def test_the_other_families_get_no_further(attacked: Target) -> None:
    """Nothing is a server error, a socket's failure, or costly."""
    job = attacked.job()
    with attacked.watched() as seen:
        found = {(case.family, case.name): case.send(attacked) for case in few()}
    attacked.job_ends(job)
    assert {case: status for case, status in found.items() if 500 <= status < 1000 or status == 1011} == {}
    assert attacked.lives()
    assert seen[0].peak_bytes < MEMORY_LIMIT_BYTES / 2
