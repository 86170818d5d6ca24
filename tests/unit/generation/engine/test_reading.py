"""Reading files into host memory: once, with their digests, and straight to where they stay."""

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from generation.engine import loader
from generation.engine.loader import host_read
from tests.support.batches import TinyModel

CPU = torch.device("cpu")


def test_files_are_hashed_while_they_are_copied(tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither waits for the other; what is said of the files is what it was."""
    both = threading.Barrier(2, timeout=60)
    digest, read = loader._digest, loader.load_file

    def hashed(path: Path) -> bytes:
        both.wait()
        return digest(path)

    def copied(path: Path) -> Any:
        both.wait()
        return read(path)

    monkeypatch.setattr(loader, "_digest", hashed)
    monkeypatch.setattr(loader, "load_file", copied)
    model = tiny("sd1")
    said = hashlib.sha256()
    for path in sorted(model.folder.glob("*/*.safetensors")):
        said.update(f"{path.parent.name}/{path.name}".encode())
        said.update(hashlib.sha256(path.read_bytes()).digest())
    assert host_read(model, CPU).weights_sha256 == said.hexdigest()


def test_pinned_memory_is_filled_from_the_file(tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not from a copy beside it."""
    pinned: list[bool] = []
    empty_like = torch.empty_like

    def made(like: Any, *, pin_memory: bool, **options: Any) -> Any:
        pinned.append(pin_memory)
        return empty_like(like, **options)

    monkeypatch.setattr(torch, "empty_like", made)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda *_: pytest.fail("copied twice"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    host = host_read(tiny("sd1"), torch.device("cuda"))
    assert pinned == [True] * sum(len(module.tensors) for module in host.modules.values())
