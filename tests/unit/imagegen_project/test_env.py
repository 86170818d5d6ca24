"""Every environment variable is explained where it is declared, and the documents are made from that."""

import re
import subprocess
import sys

from imagegen_project.env import child_environment
from scripts.settings import DOCUMENT, EXAMPLE, SOURCE, document, example, settings_read

# A small layer, of numbers that begin at any place in a cache line: how many results differ from the first.
ROUNDING = """
from imagegen_project import env
env.configure_torch_process()
import torch
torch.manual_seed(0)
weight, row = torch.randn(16, 16), torch.randn(1, 16)
def at(numbers, place):
    return torch.empty(numbers.numel() + 16)[place : place + numbers.numel()].view_as(numbers).copy_(numbers)
def drawn(place):
    return torch.nn.functional.linear(row, at(weight, place))
print(sum(not torch.equal(drawn(place), drawn(0)) for place in range(16)))
"""

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


def test_numbers_round_the_same_wherever_they_lie() -> None:
    """Else a `reproducible` request draws other pixels from one load of a model to the next, on AMD's processors."""
    environment = child_environment()
    environment.pop("MKL_CBWR", None)
    ran = subprocess.run(
        [sys.executable, "-c", ROUNDING], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "0"
