"""What a check finds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    FAULT = "fault"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check says; a note or a fault comes with its remedy. `check` is a stable name for scripts."""

    check: str
    state: State
    said: str
    remedy: str = ""


Check = Callable[[], Iterator[Finding]]


def ok(check: str, said: str) -> Finding:
    """All is well."""
    return Finding(check=check, state=State.OK, said=said)


def note(check: str, said: str, remedy: str) -> Finding:
    """It works, and may not always."""
    return Finding(check=check, state=State.NOTE, said=said, remedy=remedy)


def fault(check: str, said: str, remedy: str) -> Finding:
    """Something does not work."""
    return Finding(check=check, state=State.FAULT, said=said, remedy=remedy)


def skipped(check: str, said: str) -> Finding:
    """It could not be looked at."""
    return Finding(check=check, state=State.SKIPPED, said=said)


def first_line(error: BaseException) -> str:
    """What an error says, short."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
