"""What samplers bring to a card at each step, without a wait for all that the card is at.

Some add noise. It is drawn on the CPU, so that a seed means the same on every device; from pinned memory it goes to the
card in its turn, which diffusers does not see to. Others look up tables of the host's by a timestep that diffusers has
on the card: U-Nets' stay on the host, and what the denoiser needs of them is written there as a number.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor


def noise_in_turn(scheduler: Any) -> None:
    """Has all schedulers of a class bring their noise to a card without a wait; the numbers stay the same."""
    module: Any = sys.modules[type(scheduler).__module__]
    if getattr(module, "randn_tensor", None) is randn_tensor:
        module.randn_tensor = _noise


def timesteps_on_host(scheduler: Any) -> None:
    """Has a scheduler hold its timesteps where its tables are; the numbers stay the same."""
    inner: Callable[..., None] = scheduler.set_timesteps

    @functools.wraps(inner)  # pipelines look at what it takes
    def set_timesteps(*arguments: Any, **keywords: Any) -> None:
        inner(*arguments, **keywords)
        scheduler.timesteps = scheduler.timesteps.cpu()

    scheduler.set_timesteps = set_timesteps


def scalars_brought(device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
    """The same tensor, on the device if it is one number of the host's: in its turn, and without a wait."""
    if tensor.ndim or tensor.device.type != "cpu":
        return tensor
    return torch.full((), tensor.item(), dtype=tensor.dtype, device=device)


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
