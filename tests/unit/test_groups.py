"""Tests that share a service run in one process, which makes it once."""

import re
from pathlib import Path

import pytest

from tests.support.groups import SHARING_SERVICES, group_of

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8")
    for path in (REPOSITORY / "tests").rglob("test_*.py")
}


@pytest.mark.parametrize(
    ("fixture", "groups"),
    [
        ("live", set(SHARING_SERVICES)),
        ("visits", {"clients"}),
        ("hubbed", {"live"}),
    ],
)
def test_who_uses_what_takes_long_to_make_is_in_its_group(fixture: str, groups: set[str]) -> None:
    found = {
        path: group_of(f"{path}::test")
        for path, text in FILES.items()
        if re.search(rf"[(,]\s*{fixture}: ", text)
    }
    assert len(found) > 1
    assert {path: group for path, group in found.items() if group not in groups} == {}


def test_others_are_grouped_by_file() -> None:
    assert group_of("tests/unit/test_groups.py::test_a[b]") == "tests/unit/test_groups.py"
