"""Helpers of these tests: draw a batch through a stock pipeline, and read or measure pictures."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from models_registry.builtin import DEFAULT_GUIDANCE, DEFAULT_STEPS
from models_registry.builtin.detector import Reading, read_picture

Draw = Callable[..., list[Image.Image]]
Pixels = npt.NDArray[np.float64]


def drawer(pipeline: Any, **defaults: Any) -> Draw:
    """Return a function that generates a batch of prompts with seeds 0, 1, ... and any argument replaced."""
    import torch

    def draw(prompts: list[str], **changes: Any) -> list[Image.Image]:
        arguments: dict[str, Any] = {"num_inference_steps": DEFAULT_STEPS, "guidance_scale": DEFAULT_GUIDANCE}
        arguments["generator"] = [torch.Generator().manual_seed(index) for index in range(len(prompts))]
        images: list[Image.Image] = pipeline(prompts, **(arguments | defaults | changes)).images
        return images

    return draw


def read(image: Image.Image) -> Reading:
    """Read a generated picture."""
    return read_picture(np.asarray(image))


def values(image: Image.Image) -> Pixels:
    """Return the picture's values from 0 to 255 as floats."""
    return np.asarray(image).astype(np.float64)


def saturation(image: Image.Image) -> float:
    """Return the mean spread between the largest and the smallest channel, from 0 to 255."""
    pixels = values(image)
    return float((pixels.max(axis=2) - pixels.min(axis=2)).mean())
