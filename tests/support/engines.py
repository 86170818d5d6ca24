"""Fixtures of the engine on real pipelines: the built-in model, and tiny random checkpoints of every family.

What they make imports torch; a run that asks for none of them does not.
"""

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from models_registry.builtin import WEIGHTS

if TYPE_CHECKING:
    from generation.engine import Engine, ModelRef
    from tests.support.batches import BatchMaker, TinyModel

# For whichever test imports torch first. All that workers set would keep other tests from their Hub.
for name, value in (
    ("OMP_WAIT_POLICY", "PASSIVE"),
    ("TRANSFORMERS_VERBOSITY", "error"),
    ("DIFFUSERS_VERBOSITY", "error"),
    # On AMD's processors MKL rounds by where in memory the numbers lie, and two loads of one model draw other pixels.
    ("MKL_CBWR", "AUTO"),
):
    os.environ.setdefault(name, value)


@pytest.fixture(scope="session")
def model() -> "ModelRef":
    """The built-in checkpoint, in the number format in which every processor draws the same."""
    from generation.engine import ModelRef

    return ModelRef(id="builtin", repository="imagegen/builtin", revision="", folder=WEIGHTS, dtype="float32")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> "TinyModel":
    """Tiny random checkpoints on disk, by family; made once."""
    from generation.engine import ModelRef
    from tests.support.tiny_checkpoints import tiny_checkpoint_copy

    root: Path = tmp_path_factory.mktemp("tiny")

    def model(family: str) -> ModelRef:
        folder = root / family
        if not folder.exists():
            tiny_checkpoint_copy(family, folder)
        return ModelRef(
            id=f"tiny-{family}",
            repository=f"tiny/{family}",
            revision="",
            folder=folder,
            dtype="float32",
        )

    return model


@pytest.fixture(scope="session")
def engine() -> "Engine":
    """An engine of one thread, so that equal requests give equal pixels."""
    from generation.engine import Engine

    return Engine(threads=1)


@pytest.fixture
def batch(model: "ModelRef") -> "BatchMaker":
    """A quick request, with changes."""
    from tests.support.batches import quick

    return functools.partial(quick, model=model, width=256, height=256)
