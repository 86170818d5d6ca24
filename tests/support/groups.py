"""Where a run has several processes: which tests one of them runs in turn, and which begin first."""

import re
from typing import Any, Final

from xdist.scheduler import LoadScopeScheduling

# Files whose tests share what takes long to make (a running service, what the model draws), the longest first.
_SHARING: Final = {
    "live": r"tests/(integration/test_(cli|documents_run|live\w*|slow_readers)|chaos/test_redis_gone)\.py",
    # On a service of their own: as one chain they would still run when all else has ended.
    "clients": r"tests/(browser|clients)/",
    "builtin": r"tests/integration/builtin/",
}
# Unit tests that begin before the others: they take longest, and while the first of them migrates the run's database
# the rest have something to do that needs none.
_LONG_UNITS: Final = r"tests/unit/(generation/engine/|test_authorisation\.py)"
# Those with running services.
SHARING_SERVICES: Final = ("live", "clients")


def group_of(nodeid: str) -> str:
    """The name of a test's group: what it shares with other files, else its own file."""
    path = nodeid.partition("::")[0]
    return next((name for name, pattern in _SHARING.items() if re.match(pattern, path)), path)


def place_of(nodeid: str) -> tuple[int, bool, bool, str]:
    """By what tests are sorted: whole services wait for much, and leave the cores to the unit tests behind them.

    The short ones come last, so that all processes end at nearly the same time.
    """
    group, names = group_of(nodeid), list(_SHARING)
    first = names.index(group) if group in names else len(names)
    return first, group.startswith("tests/unit/"), not re.match(_LONG_UNITS, group), group


class GroupScheduling(LoadScopeScheduling):
    """Gives a process one group after the other, in the order of the collection.

    pytest-xdist's own groups are marks that it writes into a test's id, which pytest 9.2 does not take any more.
    """

    def __init__(self, config: Any, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
