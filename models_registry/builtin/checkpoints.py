"""Training state on disk: safetensors for tensors, JSON for the rest; nothing is ever pickled."""

import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


@dataclass
class Progress:
    """How far a stage has come: optimizer steps, and the seconds spent on them over all runs."""

    step: int = 0
    seconds: float = 0.0


class Clock:
    """Counts the seconds of a stage towards its budget, over resumed runs."""

    def __init__(self, progress: Progress, *, minutes: float) -> None:
        self._before = progress.seconds
        self._start = time.monotonic()
        self._budget = minutes * 60

    @property
    def seconds(self) -> float:
        """Seconds spent so far, earlier runs included."""
        return self._before + time.monotonic() - self._start

    @property
    def share(self) -> float:
        """Share of the budget that is spent, at most 1."""
        return min(1.0, self.seconds / self._budget)


def named_state(modules: dict[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    """Return the weights of several modules under "<module>.<weight>" names."""
    return {
        f"{prefix}.{name}": tensor
        for prefix, module in modules.items()
        for name, tensor in module.state_dict().items()
    }


def load_named_state(modules: dict[str, torch.nn.Module], state: dict[str, torch.Tensor]) -> None:
    """Put weights named as by `named_state` into the modules; raises when one is missing or left over."""
    for prefix, module in modules.items():
        start = f"{prefix}."
        module.load_state_dict(
            {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
        )


class Ema:
    """A moving average of weights; it averages over fewer steps while training is young."""

    def __init__(self, parameters: dict[str, torch.Tensor], *, decay: float) -> None:
        self._decay = decay
        self.shadow = {name: tensor.detach().clone() for name, tensor in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: dict[str, torch.Tensor], step: int) -> None:
        """Move the average towards the current weights."""
        decay = min(self._decay, (1 + step) / (10 + step))
        names = [name for name in self.shadow if self.shadow[name].is_floating_point()]
        torch._foreach_lerp_(
            [self.shadow[name] for name in names], [parameters[name].detach() for name in names], 1 - decay
        )


def save_checkpoint(
    folder: Path,
    *,
    weights: dict[str, torch.Tensor],
    ema: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Write a checkpoint beside the old one, then put it in its place."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file(
        {name: tensor.detach().contiguous() for name, tensor in weights.items()},
        fresh / "weights.safetensors",
    )
    save_file({name: tensor.contiguous() for name, tensor in ema.items()}, fresh / "ema.safetensors")
    state = optimizer.state_dict()["state"]
    moments = {
        f"{index}.{name}": tensor.contiguous()
        for index, entry in state.items()
        for name, tensor in entry.items()
    }
    save_file(moments, fresh / "optimizer.safetensors")
    (fresh / "progress.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Give an optimizer of the same parameters the moments that a checkpoint holds."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(folder / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def load_progress(folder: Path) -> Progress:
    """Return how far a checkpoint's training had come."""
    return Progress(**json.loads((folder / "progress.json").read_text(encoding="utf-8")))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def cosine_rate(peak: float, *, step: int, share: float, warmup: int = 200, floor: float = 0.02) -> float:
    """Return the learning rate: linear warm-up over steps, then a cosine to `floor` of the peak at the deadline."""
    cosine = 0.5 * (1 + float(torch.cos(torch.tensor(share * torch.pi))))
    return peak * min(1.0, (step + 1) / warmup) * (floor + (1 - floor) * cosine)


def trainable(modules: Iterable[torch.nn.Module]) -> list[torch.nn.Parameter]:
    """Return the parameters that take gradients."""
    return [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
