"""The two LoRA adapters, through the stock pipeline's own loading."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models_registry.builtin import ADAPTERS
from tests.integration.builtin.pictures import drawer, saturation, values

SCALES = (0.0, 0.5, 1.0)
PROMPTS = [
    "a large red square in the centre on a white background",
    "a large blue circle in the centre on a yellow background",
]
PLAIN = "plain"


def middle_contrast(image: Image.Image) -> float:
    """Return how far the picture's middle is from its corner, 0 to 255: small where a shape is a contour."""
    pixels = values(image)
    side = len(pixels)
    near = slice(side // 2 - side // 24, side // 2 + side // 24)
    return float(
        np.abs(pixels[near, near].mean((0, 1)) - pixels[: side // 12, : side // 12].mean((0, 1))).mean()
    )


@pytest.fixture(scope="module")
def drawn(pipeline: Any) -> dict[tuple[str, float], list[Image.Image]]:
    """Pictures by adapter and scale, and those without any adapter loaded."""
    draw = drawer(pipeline)
    pictures = {(PLAIN, 0.0): draw(PROMPTS)}
    for name in ("outline", "pastel"):
        pipeline.load_lora_weights(ADAPTERS, weight_name=f"{name}.safetensors", adapter_name=name)
    try:
        for name in ("outline", "pastel"):
            for scale in SCALES:
                pipeline.set_adapters(name, scale)
                pictures[name, scale] = draw(PROMPTS)
        pipeline.set_adapters(["outline", "pastel"], [1.0, 1.0])
        pictures["both", 1.0] = draw(PROMPTS)
        pipeline.set_adapters(["pastel", "outline"], [1.0, 1.0])
        pictures["reversed", 1.0] = draw(PROMPTS)
    finally:
        pipeline.unload_lora_weights()
    return pictures


@pytest.mark.parametrize("name", ["outline", "pastel"])
def test_scale_zero_equals_no_adapter(drawn: dict[tuple[str, float], list[Image.Image]], name: str) -> None:
    for plain, off in zip(drawn[PLAIN, 0.0], drawn[name, 0.0], strict=True):
        assert np.abs(values(plain) - values(off)).max() <= 1


def test_outline_empties_shapes_more_with_its_scale(
    drawn: dict[tuple[str, float], list[Image.Image]],
) -> None:
    contrasts = [sum(map(middle_contrast, drawn["outline", scale])) for scale in SCALES]
    assert all(one > other for one, other in pairwise(contrasts)), contrasts
    assert contrasts[-1] < 0.5 * contrasts[0]


def test_pastel_pales_colours_more_with_its_scale(drawn: dict[tuple[str, float], list[Image.Image]]) -> None:
    spreads = [sum(map(saturation, drawn["pastel", scale])) for scale in SCALES]
    assert all(one > other for one, other in pairwise(spreads)), spreads
    assert spreads[-1] < 0.7 * spreads[0]


def test_adapters_can_be_stacked(drawn: dict[tuple[str, float], list[Image.Image]]) -> None:
    plain, both = drawn[PLAIN, 0.0], drawn["both", 1.0]
    assert sum(map(middle_contrast, both)) < sum(map(middle_contrast, plain))
    assert sum(map(saturation, both)) < sum(map(saturation, plain))


def test_the_order_of_adapters_does_not_matter(
    drawn: dict[tuple[str, float], list[Image.Image]],
) -> None:
    """But for the rounding of sums."""
    for one, other in zip(drawn["both", 1.0], drawn["reversed", 1.0], strict=True):
        assert np.abs(values(one) - values(other)).mean() < 1
