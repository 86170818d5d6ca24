"""Bounds on JSON: what passes, what does not, and that what is refused was never parsed."""

import base64
import io
import json
import os
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rest_framework.exceptions import ParseError

from imagegen_project.common import json_bounds
from imagegen_project.common.json_bounds import TooComplexError, json_bounds_check, json_read
from imagegen_project.common.parsers import BoundedJSONParser

MIB = 1024 * 1024
# Made where they are read: all of them are 170 MB, in each process of a run.
HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty lists": lambda: b"[" + b"[]," * (5 * MIB) + b"[]]",
    "numbers": lambda: b"[" + b"1," * (8 * MIB) + b"1]",
    "empty strings": lambda: b"[" + b'"",' * (5 * MIB) + b'""]',
    "objects": lambda: b'[{"a":1}' + b',{"a":1}' * (2 * MIB) + b"]",
    "names": lambda: b"{" + b",".join(b'"%d":1' % number for number in range(MIB)) + b"}",
    "depth": lambda: b"[" * (16 * MIB),
    "depth of objects": lambda: b'{"a":' * (3 * MIB),
    "quotes": lambda: b'["' + b'\\"' * (8 * MIB) + b'"]',
    "backslashes": lambda: b'["' + b"\\" * (16 * MIB) + b'"]',
    "escapes": lambda: b'["' + b"\\u0101" * (2 * MIB) + b'"]',
    "spaces": lambda: b"[" + b" " * (16 * MIB) + b"]",
    "digits": lambda: b"[" + b"1" * (16 * MIB) + b"]",
    "after an open string": lambda: b'["' + b"[" * (16 * MIB),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_without_being_parsed(name: str) -> None:
    """With no more memory than a copy or two of the text."""
    text = HOSTILE[name]()
    tracemalloc.start()
    try:
        with pytest.raises(ParseError):
            BoundedJSONParser().parse(io.BytesIO(text))
        assert tracemalloc.get_traced_memory()[1] < 4 * len(text) + MIB
    finally:
        tracemalloc.stop()


def test_pictures_pass() -> None:
    """Eight of them, however long their base64 is, and with every slash escaped too."""
    picture = base64.b64encode(os.urandom(MIB + 1)).decode()
    value = {"prompt": 'a "red", [round] {circle}', "images": [picture] * 8, "steps": 4}
    text = json.dumps(value)
    assert json_read(text.encode()) == value
    assert json_read(text.replace("/", "\\/").encode()) == value


@pytest.mark.parametrize("at", [0, 1])
def test_the_bounds_themselves(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is at a bound passes, and one more does not."""
    monkeypatch.setattr(json_bounds, "MAX_BYTES_OUTSIDE_STRINGS", 100_000)
    texts = (
        b"[" * (json_bounds.MAX_DEPTH + at) + b"]" * (json_bounds.MAX_DEPTH + at),
        json.dumps([1] * (json_bounds.MAX_VALUES + at)).encode(),
        b" " * (99_999 + at) + b"1",
        b'"' + b"\\\\" * (json_bounds.MAX_BACKSLASHES // 2) + b"\\n" * at + b'"',
        b'"' + b'\\"' * (json_bounds.MAX_ESCAPED_QUOTES + at) + b'"',
    )
    for text in texts:
        if at:
            with pytest.raises(TooComplexError):
                json_bounds_check(text)
        else:
            json_bounds_check(text)
            json_read(text)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda values: st.lists(values) | st.dictionaries(st.text(), values),
        max_leaves=20,
    )
)
def test_ordinary_values_are_read_as_they_are(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        try:
            encoded = text.encode()
        except UnicodeEncodeError:  # half a pair stands for no character
            continue
        assert json_read(encoded) == value


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"a"}', b"NaN", b"[Infinity]", b"\xff", b'"a', "[1]".encode("utf-16"), b"'a'"]
)
def test_what_is_no_json_is_an_error(text: bytes) -> None:
    with pytest.raises(ParseError):
        BoundedJSONParser().parse(io.BytesIO(text))
