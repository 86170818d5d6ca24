"""The engine on real pipelines: the built-in model, and tiny random checkpoints of every family."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from imagegen_project import env

env.configure_torch_process()

from generation.engine import Batch, Engine, ModelRef  # noqa: E402
from models_registry.builtin import WEIGHTS  # noqa: E402
from tests.support.batches import quick  # noqa: E402
from tests.support.tiny_checkpoints import make_tiny_checkpoint  # noqa: E402


@pytest.fixture(scope="session")
def model() -> ModelRef:
    """The built-in checkpoint, in the number format in which every processor draws the same."""
    return ModelRef(id="builtin", repository="imagegen/builtin", revision="", folder=WEIGHTS, dtype="float32")


TinyModel = Callable[[str], ModelRef]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """Tiny random checkpoints on disk, by family; made once."""
    root: Path = tmp_path_factory.mktemp("tiny")

    def model(family: str) -> ModelRef:
        folder = root / family
        if not folder.exists():
            make_tiny_checkpoint(family, folder)
        return ModelRef(
            id=f"tiny-{family}",
            repository=f"tiny/{family}",
            revision="",
            folder=folder,
            dtype="float32",
        )

    return model


@pytest.fixture(scope="session")
def engine() -> Engine:
    """An engine of one thread, so that equal requests give equal pixels."""
    return Engine(threads=1)


@pytest.fixture
def batch(model: ModelRef) -> Callable[..., Batch]:
    """A quick request, with changes."""
    return functools.partial(quick, model=model, width=256, height=256)
