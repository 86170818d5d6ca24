"""Headers of safetensors files: sound ones pass, everything else is refused with a reason."""

from pathlib import Path
from typing import Any

import pytest

from imagegen_project.common.safetensors_header import MAX_HEADER_BYTES
from models_registry.errors import DownloadFailedError
from models_registry.weights import file_digests, header_verify
from tests.support.repositories import safetensors_bytes

TENSOR = {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}


def test_a_sound_file_passes(tmp_path: Path) -> None:
    """One with metadata, an empty tensor and a scalar too."""
    path = tmp_path / "model.safetensors"
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "F32", "shape": [], "data_offsets": [4, 8]},
        "a": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [0, 4]},
        "empty": {"dtype": "F16", "shape": [0, 5], "data_offsets": [8, 8]},
    }
    path.write_bytes(safetensors_bytes(8, header=header))
    header_verify(path)


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"a": 1},
        {"a": TENSOR | {"dtype": "PICKLE"}},
        {"a": TENSOR | {"shape": [9]}},
        {"a": TENSOR | {"shape": [-8]}},
        {"a": TENSOR | {"shape": [True] * 8}},
        {"a": TENSOR | {"shape": "8"}},
        {"a": TENSOR | {"data_offsets": [0, 9]}},
        {"a": TENSOR | {"data_offsets": [8, 0]}},
        {"a": TENSOR | {"shape": [4], "data_offsets": [0, 4]}},
        {"a": TENSOR | {"shape": [7], "data_offsets": [1, 8]}},
        {"a": TENSOR, "b": TENSOR},
        {"a": TENSOR | {"shape": [2**40, 2**40], "data_offsets": [0, 2**80]}},
        {},
    ],
    ids=str,
)
def test_an_unsound_header_is_refused(tmp_path: Path, header: Any) -> None:
    """Wrong types, sizes, gaps, overlaps, and bytes that belong to nothing."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes(8, header=header))
    with pytest.raises(DownloadFailedError, match="not a sound safetensors file"):
        header_verify(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        (2**63).to_bytes(8, "little"),
        (100).to_bytes(8, "little") + b"{}",
        (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"\xff\xff",
        (30).to_bytes(8, "little") + b'{"a": 1, "a": 1}' + b" " * 14,
        (60_000).to_bytes(8, "little") + b"[" * 60_000,
        b"\x80\x02}q\x00.",
        b"PK\x03\x04" + bytes(100),
        b"<html></html>" * 20,
    ],
    ids=[
        "empty",
        "short",
        "huge",
        "over the end",
        "over the limit",
        "no text",
        "twins",
        "deep",
        "pickle",
        "zip",
        "html",
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, data: bytes) -> None:
    """Before anything of it is believed."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(DownloadFailedError, match="not a sound safetensors file"):
        header_verify(path)


def test_digests_are_those_of_git_and_sha256(tmp_path: Path) -> None:
    """Known values of a known file."""
    path = tmp_path / "hello.txt"
    path.write_bytes(b"hello\n")
    found = file_digests(path)
    assert found.size == 6
    assert found.sha256 == "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
    assert found.git_sha1 == "ce013625030ba8dba906f756967f9e9ca394464a"
