"""JSON that is bounded before it is parsed: how deep it is nested, and how many values it has.

The parser makes an object of every value, and holds the interpreter's lock while it does: 16 MB of `[[],[],…` take
seconds and a gigabyte. So the text is read as far as its bounds first, from one bracket, comma or quotation mark to the
next, and over a string at once, however long it is (pictures in base64). That costs a tenth of a second at most.
"""

import json
import re
from typing import Any, Final, NoReturn

MAX_DEPTH: Final = 64
MAX_VALUES: Final = 10_000
MAX_BYTES_OUTSIDE_STRINGS: Final = 4 * 1024 * 1024
# Some escape every slash of base64, which is a character in 64.
MAX_BACKSLASHES: Final = 500_000
MAX_ESCAPED_QUOTES: Final = 50_000

_NEXT = re.compile(rb'[\[\]{},"]')


class TooComplexError(ValueError):
    """The text is over a bound, which the message names."""


def json_read(text: bytes) -> Any:
    """The value of a JSON text in UTF-8. Raises ValueError: over a bound, no JSON, or NaN and infinities."""
    json_bounds_check(text)
    return json.loads(text.decode("utf-8"), parse_constant=_refuse)


def json_bounds_check(text: bytes) -> None:
    """Raises TooComplexError where the text is over a bound; what is no JSON passes."""
    if text.count(b"\\") > MAX_BACKSLASHES:
        raise TooComplexError(f"more than {MAX_BACKSLASHES} backslashes")
    depth = values = position = outside = 0
    quotes = _Quotes(text)
    while True:
        found = _NEXT.search(text, position, position + MAX_BYTES_OUTSIDE_STRINGS - outside)
        if found is None:
            if len(text) - position > MAX_BYTES_OUTSIDE_STRINGS - outside:
                raise TooComplexError(f"more than {MAX_BYTES_OUTSIDE_STRINGS} bytes outside of strings")
            return
        outside += found.end() - position
        position = found.end()
        match found[0]:
            case b'"':
                position = quotes.string_end(position)
            case b"[" | b"{":
                depth, values = depth + 1, values + 1
            case b",":
                values += 1
            case _:
                depth -= 1
        if depth > MAX_DEPTH:
            raise TooComplexError(f"nested deeper than {MAX_DEPTH}")
        if values > MAX_VALUES:
            raise TooComplexError(f"more than {MAX_VALUES} values")


class _Quotes:
    """Finds the ends of a text's strings."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.escaped = 0

    def string_end(self, position: int) -> int:
        """Behind the string whose inside begins here. Raises TooComplexError."""
        while (end := self.text.find(b'"', position)) >= 0:
            inside, position = self.text[position:end], end + 1
            if (len(inside) - len(inside.rstrip(b"\\"))) % 2 == 0:
                return position
            self.escaped += 1
            if self.escaped > MAX_ESCAPED_QUOTES:
                raise TooComplexError(f"more than {MAX_ESCAPED_QUOTES} quotation marks inside strings")
        return len(self.text)  # it has none, as the parser will say


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
