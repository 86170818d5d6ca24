"""What commands print: one JSON document, or words for people."""

import json
import sys
from collections.abc import Sequence
from typing import Any, TextIO


def say(text: str = "", *, to: TextIO | None = None) -> None:
    """One line on standard output."""
    stream = to or sys.stdout
    stream.write(f"{text}\n")
    stream.flush()


def say_json(value: Any, *, indent: int | None = 2) -> None:
    """One JSON document; what JSON does not know (times, ids) as text."""
    say(json.dumps(value, indent=indent, default=str))


def say_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their widest cell."""
    cells = [tuple(headings), *(tuple(str(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    for row in cells:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def age(seconds: float | None) -> str:
    """A span of time in its two largest units, such as `3 min 20 s`."""
    if seconds is None:
        return "-"
    left = max(0, round(seconds))
    words: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        number, left = divmod(left, size)
        if number or (size == 1 and not words):
            words.append(f"{number} {unit}")
    return " ".join(words[:2])


def counted(number: int, thing: str) -> str:
    """A number of things, such as `1 job` and `2 jobs`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def size(number: float) -> str:
    """Bytes in the unit that people read."""
    for unit, decimals in (("B", 0), ("kB", 0), ("MB", 1)):
        if number < 1000:
            return f"{number:.{decimals}f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
