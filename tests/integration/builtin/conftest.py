"""The trained built-in model, loaded once, through the stock pipelines."""

import os

# Spinning threads slow every step by an order of magnitude beside a busy neighbour; read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from typing import Any

import pytest

from tests.integration.builtin.pictures import Draw, drawer


@pytest.fixture(scope="session")
def pipeline() -> Any:
    from models_registry.builtin.evaluate import load_pipeline

    return load_pipeline()


@pytest.fixture(scope="session")
def draw(pipeline: Any) -> Draw:
    """Generate at 512 pixels, the native size."""
    return drawer(pipeline)
