"""Muon for the weight matrices and convolutions, Adam for everything else (https://kellerjordan.github.io/posts/muon/).

A small network that has only some thousands of steps to learn gains from updates that move all directions of a matrix
alike. The orthogonalisation works on the small Gram matrix, which costs two large products instead of ten.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, Final

import torch

MOMENTUM: Final = 0.95
ADAM_BETAS: Final = (0.9, 0.99)
EPSILON: Final = 1e-8
# The quintic Newton-Schulz iteration that drives singular values towards 1 fastest.
QUINTIC: Final = (3.4445, -4.7750, 2.0315)
ITERATIONS: Final = 5
UPDATE_SIZE: Final = 0.2  # root mean square of an update, Adam's own size, so that both share a learning rate


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """Return a matrix of the same singular vectors whose singular values are all near 1."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + EPSILON)
    gram = wide @ wide.T
    identity = torch.eye(len(gram), device=gram.device, dtype=gram.dtype)
    total = identity
    first, third, fifth = QUINTIC
    for _ in range(ITERATIONS):
        factor = first * identity + third * gram + fifth * (gram @ gram)
        total = factor @ total
        gram = factor @ gram @ factor
    result = total @ wide
    return result if matrix.shape[0] <= matrix.shape[1] else result.T


class Muon(torch.optim.Optimizer):
    """Steps the parameters of `matrices` by Muon and those of `others` by Adam, with one learning rate, several at a time."""

    def __init__(
        self,
        matrices: list[torch.nn.Parameter],
        others: list[torch.nn.Parameter],
        *,
        lr: float,
        weight_decay: float,
        threads: Executor,
    ) -> None:
        self._threads = threads
        groups = [{"params": matrices, "muon": True}, {"params": others, "muon": False}]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Update every parameter that has a gradient; `closure` is not supported."""
        for group in self.param_groups:
            given = [parameter for parameter in group["params"] if parameter.grad is not None]
            list(self._threads.map(partial(self._update, group), given))

    @torch.no_grad()
    def _update(self, group: dict[str, Any], parameter: torch.nn.Parameter) -> None:
        """Update one parameter."""
        update = self._muon(parameter) if group["muon"] else self._adam(parameter)
        parameter.mul_(1 - group["lr"] * group["weight_decay"] * group["muon"])
        parameter.add_(update, alpha=-group["lr"])

    def _muon(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        """Return the orthogonalised momentum of a matrix, or of a convolution seen as one."""
        state = self.state[parameter]
        momentum = state.setdefault("momentum", torch.zeros_like(parameter))
        momentum.lerp_(parameter.grad, 1 - MOMENTUM)
        ahead = parameter.grad.lerp(momentum, MOMENTUM).flatten(1)
        return (orthogonalise(ahead) * (UPDATE_SIZE * max(ahead.shape) ** 0.5)).view(parameter.shape)

    def _adam(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        """Return Adam's update with its bias corrected."""
        state = self.state[parameter]
        if not state:
            state.update(
                step=torch.zeros(()), mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter)
            )
        state["step"] += 1
        first, second = ADAM_BETAS
        state["mean"].lerp_(parameter.grad, 1 - first)
        state["square"].mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
        count = float(state["step"])
        scale = (state["square"] / (1 - second**count)).sqrt_().add_(EPSILON)
        return state["mean"] / (1 - first**count) / scale


def split_parameters(
    modules: dict[str, torch.nn.Module],
) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """Part trainable parameters into those for Muon (inner matrices and convolutions) and all others."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for module in modules.values():
        for name, parameter in module.named_parameters():
            outer = any(part in name for part in ("embedding", "conv_in.", "conv_out."))
            (others if outer or parameter.dim() == 1 else matrices).append(parameter)
    return matrices, others
