"""Every environment variable is explained in `.env.example` and in docs/settings.md, and only those are."""

import re
from itertools import pairwise
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]


def variables() -> set[str]:
    """The variables that `env.py` reads."""
    return set(
        re.findall(
            r'_(?:env\.\w+|secret)\(\s*"([A-Z0-9_]+)"',
            (REPOSITORY / "imagegen_project" / "env.py").read_text(),
        )
    )


def test_env_example_lists_every_variable_with_an_explanation() -> None:
    lines = (REPOSITORY / ".env.example").read_text().splitlines()
    listed = {}
    for before, line in pairwise(lines):
        if found := re.match(r"# ([A-Z][A-Z0-9_]*)=", line):
            listed[found[1]] = before
    assert set(listed) == variables()
    unexplained = [name for name, before in listed.items() if not re.match(r"# \S+.*[.:]$", before)]
    assert unexplained == []


def test_env_example_changes_nothing_as_it_is() -> None:
    lines = (REPOSITORY / ".env.example").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []


def test_the_document_of_settings_lists_every_variable() -> None:
    document = (REPOSITORY / "docs" / "settings.md").read_text()
    assert set(re.findall(r"^\| `([A-Z][A-Z0-9_]*)`", document, flags=re.MULTILINE)) == variables()
