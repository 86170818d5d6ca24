"""Muon for the weight matrices and convolutions, Adam for everything else (https://kellerjordan.github.io/posts/muon/).

A small network that has only some thousands of steps to learn gains from updates that move all directions of a matrix
alike. The orthogonalisation works on the small Gram matrix, which costs two large products instead of ten. Matrices of one
shape are updated together: a card would otherwise wait for thousands of tiny products. All operators work on tensors of
fixed places, so that a step can be captured as a CUDA graph.
"""

from itertools import groupby
from typing import Final

import torch

MOMENTUM: Final = 0.95
ADAM_BETAS: Final = (0.9, 0.99)
EPSILON: Final = 1e-8
WEIGHT_DECAY: Final = 0.01
# The quintic Newton-Schulz iteration that drives singular values towards 1 fastest.
QUINTIC: Final = (3.4445, -4.7750, 2.0315)
ITERATIONS: Final = 5
UPDATE_SIZE: Final = 0.2  # root mean square of an update, Adam's own size, so that both share a learning rate
OUTER: Final = ("embedding", "conv_in.", "conv_out.", "lora_", "head.")  # matrices that Adam suits better

Tensors = list[torch.Tensor]


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Return matrices (count x rows x columns) of the same singular vectors whose singular values are all near 1."""
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + EPSILON)
    gram = wide @ wide.mT
    identity = torch.eye(gram.shape[-1], device=gram.device, dtype=gram.dtype)
    total = identity.expand_as(gram)
    first, third, fifth = QUINTIC
    for _ in range(ITERATIONS):
        factor = first * identity + third * gram + fifth * (gram @ gram)
        total = factor @ total
        gram = factor @ gram @ factor
    result = total @ wide
    return result if matrices.shape[1] <= matrices.shape[2] else result.mT


class Muon:
    """Updates named parameters: matrices of one shape together by Muon, all others by Adam."""

    def __init__(self, parameters: dict[str, torch.Tensor]) -> None:
        matrices = [
            name
            for name, tensor in parameters.items()
            if tensor.dim() > 1 and not any(part in name for part in OUTER)
        ]
        matrices.sort(key=lambda name: tuple(parameters[name].shape))
        self._groups = [[*names] for _, names in groupby(matrices, key=lambda name: parameters[name].shape)]
        self._others = [name for name in parameters if name not in set(matrices)]
        # one stack per shape, and Adam's two means and its count of steps
        self.state: dict[str, torch.Tensor] = {
            f"momentum.{names[0]}": torch.stack([torch.zeros_like(parameters[name]) for name in names])
            for names in self._groups
        }
        for name in self._others:
            self.state[f"mean.{name}"] = torch.zeros_like(parameters[name])
            self.state[f"square.{name}"] = torch.zeros_like(parameters[name])
        self.state["steps"] = torch.zeros((), device=next(iter(parameters.values())).device)

    @torch.no_grad()
    def update(
        self,
        parameters: dict[str, torch.Tensor],
        gradients: dict[str, torch.Tensor],
        rate: torch.Tensor,
    ) -> None:
        """Update all parameters once, `rate` being a tensor of one number."""
        for names in self._groups:
            momentum = self.state[f"momentum.{names[0]}"]
            stack = torch.stack([gradients[name] for name in names])
            momentum.lerp_(stack, 1 - MOMENTUM)
            ahead = stack.lerp(momentum, MOMENTUM).flatten(2)
            step = orthogonalise(ahead) * (UPDATE_SIZE * max(ahead.shape[1:]) ** 0.5) * rate
            given = [parameters[name] for name in names]
            torch._foreach_mul_(given, 1 - rate * WEIGHT_DECAY)
            torch._foreach_sub_(given, [*step.view_as(stack).unbind()])
        if self._others:
            self._adam([parameters[name] for name in self._others], gradients, rate)

    def _adam(self, given: Tensors, gradients: dict[str, torch.Tensor], rate: torch.Tensor) -> None:
        """Make Adam's step with its bias corrected."""
        self.state["steps"] += 1
        first, second = ADAM_BETAS
        new = [gradients[name] for name in self._others]
        means = [self.state[f"mean.{name}"] for name in self._others]
        squares = [self.state[f"square.{name}"] for name in self._others]
        torch._foreach_lerp_(means, new, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, new, new, 1 - second)
        correction = 1 - second ** self.state["steps"]
        below = [square / correction for square in squares]
        torch._foreach_sqrt_(below)
        torch._foreach_add_(below, EPSILON)
        steps = [mean / scale for mean, scale in zip(means, below, strict=True)]
        torch._foreach_mul_(steps, rate / (1 - first ** self.state["steps"]))
        torch._foreach_sub_(given, steps)
