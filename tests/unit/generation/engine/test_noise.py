"""Noise on its way to a card."""

import sys

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor

from generation.engine.noise import noise_in_turn

MODULE = sys.modules[EulerAncestralDiscreteScheduler.__module__]
SHAPE = (2, 4, 8, 8)


def generators() -> list[torch.Generator]:
    """Of two pictures."""
    return [torch.Generator().manual_seed(seed) for seed in (7, 8)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_it_is_pinned_and_waits_for_nothing(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """The same numbers as diffusers' own, of each picture's generator."""
    brought: list[tuple[str, bool]] = []

    class Pinned:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        def to(self, device: torch.device, *, non_blocking: bool) -> torch.Tensor:
            brought.append((device.type, non_blocking))
            return self.tensor

    def pinned(tensor: torch.Tensor) -> Pinned:
        return Pinned(tensor)

    monkeypatch.setattr(MODULE, "randn_tensor", randn_tensor)  # as it is again afterwards
    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    noise_in_turn(EulerAncestralDiscreteScheduler())
    draw = MODULE.randn_tensor
    expected = randn_tensor(SHAPE, generator=generators(), dtype=dtype)
    card = torch.device("cuda")
    assert torch.equal(draw(SHAPE, generator=generators(), device=card, dtype=dtype), expected)
    assert brought == [("cuda", True)]
    assert torch.equal(draw(SHAPE, generator=generators(), device=torch.device("cpu"), dtype=dtype), expected)
    one = randn_tensor(SHAPE, generator=generators()[0], dtype=dtype)
    assert torch.equal(draw(SHAPE, generator=generators()[0], device=card, dtype=dtype), one)
    assert len(brought) == 2
