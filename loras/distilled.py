"""Which scheduler a LoRA was distilled for, told by its names.

A LoRA that lets a model draw in a few steps works with the scheduler that it was made for and hardly with another.
Nothing in its weights says which; its authors put the method into the names of its file and repository.
"""

import re
from typing import Final

from models_registry.family_facts import FAMILY_FACTS

# What their authors draw with, method by method; the first that a name fits counts. Names are in lower case, with a
# dash for all that is no letter or digit.
_METHODS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"(^|-)tcd(-|$)"), "tcd"),
    (re.compile(r"(^|-)(lcm|dmd2)(-|$)"), "lcm"),
    # Hyper-SD's file for one step is for any number of them, by TCD.
    (re.compile(r"(^|-)hyper-?sd(xl|\d+)?-1-?step"), "tcd"),
    (re.compile(r"(^|-)hyper-?sd(xl|\d+)?(-|$)"), "ddim_trailing"),
    # `lightning` alone may be what a style paints.
    (re.compile(r"(^|-)sdxl-lightning(-|$)|(^|-)lightning-.*\d-?steps?(-|$)"), "euler_trailing"),
)


def scheduler_told(*names: str, family: str = "") -> str:
    """The scheduler that the first telling name says, "" where none does or `family` is not drawn with it."""
    for name in names:
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower())
        told = next((scheduler for pattern, scheduler in _METHODS if pattern.search(plain)), "")
        if told:
            return told if not family or told in FAMILY_FACTS[family].schedulers else ""
    return ""
