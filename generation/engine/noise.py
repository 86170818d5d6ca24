"""The noise that some samplers add at each step.

It is drawn on the CPU, so that a seed means the same on every device. diffusers then brings it to a card in a way that
has the host wait for all that the card is at; from pinned memory it goes there in its turn.
"""

import sys
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor


def noise_in_turn(scheduler: Any) -> None:
    """Has all schedulers of a class bring their noise to a card without a wait; the numbers stay the same."""
    module: Any = sys.modules[type(scheduler).__module__]
    if getattr(module, "randn_tensor", None) is randn_tensor:
        module.randn_tensor = _noise


def _noise(
    shape: Any, generator: Any = None, device: Any = None, dtype: Any = None, layout: Any = None
) -> torch.Tensor:
    """As `randn_tensor` does it."""
    first = generator[0] if isinstance(generator, list) else generator
    if first is None or first.device.type != "cpu" or device is None or torch.device(device).type != "cuda":
        drawn: torch.Tensor = randn_tensor(shape, generator, device, dtype, layout)
        return drawn
    noise = randn_tensor(shape, generator, torch.device("cpu"), dtype, layout)
    brought: torch.Tensor = noise.pin_memory().to(device, non_blocking=True)
    return brought
