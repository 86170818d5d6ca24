"""The short form of the attack: answers, memory and no restart; no times."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.attack import addresses, files, hub, pictures, sockets
from tests.attack.bodies import NOBODY, SHORT, attack
from tests.attack.cases import Case
from tests.attack.target import MEMORY_LIMIT_BYTES, Target, target
from tests.support.clusters import cluster_copy


@pytest.fixture(scope="module")
def attacking_hub() -> Iterator[hub.AttackingHub]:
    """The Hub of that service."""
    with closing(hub.AttackingHub()) as double:
        yield double


@pytest.fixture(scope="module")
def attacked(attacking_hub: hub.AttackingHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A service of its own."""
    variables = {"HF_ENDPOINT": attacking_hub.url}
    folder = tmp_path_factory.mktemp("attacked")
    cluster_copy(folder / "data")
    with target(folder, **variables) as found, found.limited():
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


# Of the Hub's ways those that end soon.
QUICK = (
    *("a file without a name", "a name that climbs", "nesting", "packed", "429 for an hour"),
    *("a loop", "to a file", "a longer one", "another one", "pickle"),
)


def test_a_hub_gets_no_further(attacked: Target, attacking_hub: hub.AttackingHub) -> None:
    """Nothing that it lists, sends or says of a token costs much, or is taken for what was asked for."""
    cases = [case for case in hub.cases(attacking_hub) if case.name.partition(": ")[2] in QUICK]
    words = [case for case in hub.words(attacking_hub) if case.name in (*QUICK, "no end", "drips")]
    job = attacked.job()
    with attacked.watched() as seen:
        loaded = {case.name: case.send(attacked) for case in cases}
        told = {case.name: case.send(attacked) for case in words}
    attacked.job_ends(job)
    assert loaded == dict.fromkeys(loaded, hub.BROKEN)
    assert told == dict.fromkeys(told, 503)
    assert (len(loaded), len(told)) == (15, 7)
    assert attacked.lives()
    assert max(seen[0].peak_bytes, seen[0].workers_peak_bytes) < MEMORY_LIMIT_BYTES / 2


def test_files_are_met_by_the_reader(attacked: Target) -> None:
    """And not by a limit of how often: more of them in a minute than one user may send."""
    found = {case.name: case.send(attacked) for case in files.cases() if case.sender == "user"}
    assert 429 not in found.values()
    assert set(found.values()) <= {202, 400, 413, 422}, found
