"""The trained built-in model, loaded once, through the stock pipelines."""

import os

# Spinning threads slow every step by an order of magnitude beside a busy neighbour; read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.integration.builtin.pictures import Draw, drawer

if TYPE_CHECKING:
    from models_registry.builtin.evaluate import Case

HELD_OUT = 24


@pytest.fixture(scope="session")
def pipeline() -> Any:
    """In the number format and the order of weights that a worker on this machine draws with."""
    import torch

    from generation.engine.cpu import quick_bfloat16
    from models_registry.builtin.evaluate import load_pipeline

    if not quick_bfloat16():
        return load_pipeline()
    loaded = load_pipeline(number_format="bfloat16")
    for part in (loaded.unet, loaded.vae):
        part.to(memory_format=torch.channels_last)
    return loaded


@pytest.fixture(scope="session")
def held_out(pipeline: Any) -> "list[tuple[Case, Image.Image]]":
    """The first held-out prompts with what the model makes of them, as it is used by default."""
    from models_registry.builtin.evaluate import draw_cases, held_out_cases

    return list(draw_cases(pipeline, held_out_cases(HELD_OUT)))


@pytest.fixture(scope="session")
def draw(pipeline: Any) -> Draw:
    """Generate at 512 pixels, the native size."""
    return drawer(pipeline)
