"""The safetensors header: what it promises is verified, and nothing behind it is read."""

import contextlib
import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagegen_project.common.safetensors_header import HeaderError, read_header
from loras.key_styles import AdapterError
from loras.reading import read_adapter
from tests.support.lora_files import HOSTILE, assemble, lora_bytes, safetensors, unet_tensors

REPOSITORY = Path(__file__).resolve().parents[3]


class CountingFile(io.BytesIO):
    """Remembers which bytes were read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.pieces: list[tuple[int, int]] = []

    def read(self, size: int | None = -1, /) -> bytes:
        start = self.tell()
        data = super().read(size)
        self.pieces.append((start, start + len(data)))
        return data


def test_a_sound_header_is_read() -> None:
    """Positions are those in the file."""
    data = safetensors({"a": ("F16", (2, 3)), "b": ("F32", ())}, {"format": "pt"})
    header = read_header(io.BytesIO(data), size=len(data))
    assert header.metadata == {"format": "pt"}
    assert (header.tensors["a"].dtype, header.tensors["a"].shape) == ("F16", (2, 3))
    assert header.tensors["a"].end == header.tensors["b"].start == len(data) - 4
    assert header.tensors["b"].end == len(data)


def test_a_header_may_be_filled_up_with_spaces() -> None:
    """As the format's own library does, to align what follows."""
    header = json.dumps({"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}).encode() + b"   "
    assert read_header(io.BytesIO(assemble(header, bytes(2))), size=8 + len(header) + 2).tensors


def test_order_in_the_header_is_free() -> None:
    """Only positions count."""
    second = {"dtype": "I8", "shape": [2], "data_offsets": [1, 3]}
    first = {"dtype": "I8", "shape": [1], "data_offsets": [0, 1]}
    data = assemble(json.dumps({"b": second, "a": first}).encode(), bytes(3))
    assert set(read_header(io.BytesIO(data), size=len(data)).tensors) == {"a", "b"}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_with_a_reason(name: str) -> None:
    """A sentence for people, which can be stored: plain ASCII and short."""
    data, expected = HOSTILE[name]
    with pytest.raises((HeaderError, AdapterError), match=expected) as caught:
        read_adapter(io.BytesIO(data), size=len(data))
    assert caught.value.reason.isascii()
    assert len(caught.value.reason) < 500


def test_there_are_enough_of_them() -> None:
    """Forty and more."""
    assert len(HOSTILE) >= 40


@pytest.mark.parametrize("style", ["peft", "diffusers", "kohya"])
def test_of_the_tensors_only_alphas_are_read(style: str) -> None:
    """The header, its first bytes for a look, and single numbers."""
    data = lora_bytes(style=style)
    start = 8 + struct.unpack("<Q", data[:8])[0]
    file = CountingFile(data)
    read_adapter(file, size=len(data))
    behind = [(first, last) for first, last in file.pieces if last > start]
    assert all(first >= start and last - first <= 8 for first, last in behind)
    assert len(behind) == (4 if style == "kohya" else 0)


SPARSE = """
import resource, sys
from loras.reading import read_adapter
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open(sys.argv[1], "rb", buffering=0) as file:
    size = file.seek(0, 2)
    try:
        print(read_adapter(file, size=size).family)
    except Exception as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def reading_costs(path: Path) -> tuple[str, int]:
    """What a fresh process says of a file, and by how many MiB it grew."""
    done = subprocess.run(
        [sys.executable, "-c", SPARSE, str(path)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    said, grown = done.stdout.splitlines()
    return said, int(grown)


def test_a_file_of_300_megabytes_costs_no_memory(tmp_path: Path) -> None:
    """It is a file with a hole where its weights are: they are not read."""
    width = 75_000_000
    tensors = unet_tensors()
    header = {}
    end = 0
    for name, (_, shape, *_) in tensors.items():
        header[name] = {
            "dtype": "F16",
            "shape": list(shape),
            "data_offsets": [end, end + 2 * shape[0] * shape[1]],
        }
        end += 2 * shape[0] * shape[1]
    for name, shape in (("unet.a.to_q.lora_A.weight", [1, width]), ("unet.a.to_q.lora_B.weight", [width, 1])):
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + 2 * width]}
        end += 2 * width
    path = tmp_path / "sparse.safetensors"
    start = assemble(json.dumps(header).encode())
    with path.open("wb") as file:
        file.write(start)
        file.truncate(len(start) + end)
    said, grown = reading_costs(path)
    assert said == "sd1"
    assert grown < 50
    assert path.stat().st_size > 300_000_000


WORST = {
    "lists": b'{"a":[' + b"[]," * 340_000 + b"[]]}",
    "objects": b'{"a":[' + b"{}," * 340_000 + b"{}]}",
    "numbers": b'{"a":[' + b"999," * 255_000 + b"1]}",
    "texts": b'{"a":[' + b'"abcdefghijklmnopqrstuvwxyz0123456789abcdef",' * 149_000 + b'"a"]}',
    "one text": b'{"__metadata__":{"a":"' + b"a" * (8 * 1024 * 1024 - 100) + b'"}}',
    "too much": b'{"a":[' + b"[]," * 2_700_000 + b"[]]}",
    "wide": ('{"__metadata__":{"a":"' + "\U0001f600" * 2_000_000 + '"}}').encode(),
    "configuration": safetensors({}, {"lora_adapter_metadata": '{"a":[' + "[]," * 170_000 + "[]]}"})[8:],
}


@pytest.mark.parametrize("name", WORST)
def test_the_worst_headers_cost_little_memory(name: str, tmp_path: Path) -> None:
    """What JSON becomes in Python is bounded before it is parsed."""
    path = tmp_path / "worst.safetensors"
    path.write_bytes(assemble(WORST[name]))
    said, grown = reading_costs(path)
    assert said not in {"", "sd1"}
    assert grown < 50


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F16", "F32", "BF16", "I8", "X", 3]),
        "shape": st.lists(st.integers(-1, 2**40), max_size=4) | JSON,
        "data_offsets": st.lists(st.integers(-1, 4000), min_size=1, max_size=3) | JSON,
    }
)
NAME = st.sampled_from([*unet_tensors(), *unet_tensors(style="kohya"), "__metadata__"]) | st.text(max_size=30)
HEADERS = st.dictionaries(NAME, ENTRY | JSON, max_size=6)


def refused_or_read(data: bytes) -> None:
    """Nothing else may happen."""
    with contextlib.suppress(HeaderError, AdapterError):
        read_adapter(io.BytesIO(data), size=len(data))


@pytest.mark.slow
@given(header=HEADERS, data=st.binary(max_size=64), length=st.none() | st.integers(0, 2**64 - 1))
@settings(max_examples=300, deadline=None)
def test_no_header_breaks_the_reader(header: object, data: bytes, length: int | None) -> None:
    """Headers of the right kind with anything in them."""
    refused_or_read(assemble(json.dumps(header).encode(), data, length=length))


@given(data=st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_no_bytes_break_the_reader(data: bytes) -> None:
    """Any file at all."""
    refused_or_read(data)


@given(position=st.integers(0, 1400), byte=st.integers(0, 255), cut=st.integers(0, 40))
@settings(max_examples=300, deadline=None)
def test_no_damage_breaks_the_reader(position: int, byte: int, cut: int) -> None:
    """Sound files with one byte changed, and an end cut off."""
    data = bytearray(lora_bytes(style="kohya"))
    data[position] = byte
    refused_or_read(bytes(data[: len(data) - cut]))
