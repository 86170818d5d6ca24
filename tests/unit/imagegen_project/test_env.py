"""Every environment variable is explained where it is declared, and the documents are made from that."""

import re

from scripts.settings import DOCUMENT, EXAMPLE, SOURCE, document, example, settings_read

SETTINGS = settings_read(SOURCE.read_text())


def test_every_variable_that_is_read_is_a_setting() -> None:
    read = set(re.findall(r'_(?:env\.\w+|secret)\(\s*"([A-Z0-9_]+)"', SOURCE.read_text()))
    assert {setting.name for setting in SETTINGS} == read


def test_every_setting_has_a_section_and_a_sentence() -> None:
    assert [setting.name for setting in SETTINGS if not setting.section or len(setting.sentence) < 5] == []


def test_the_documents_are_made_from_the_code() -> None:
    """`python -m scripts.settings write` makes them."""
    assert DOCUMENT.read_text() == document(SETTINGS)
    assert EXAMPLE.read_text() == example(SETTINGS)


def test_the_example_changes_nothing_as_it_is() -> None:
    assert [line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith("#")] == []
