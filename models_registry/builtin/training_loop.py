"""What every training stage repeats: resuming, the learning rate over time, averaged weights and checkpoints."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from models_registry.builtin.checkpoints import (
    Clock,
    Ema,
    Progress,
    cosine_rate,
    load_named_state,
    load_optimizer,
    load_progress,
    named_state,
    save_checkpoint,
    set_learning_rate,
    trainable,
)

FIGURES_EVERY: Final = 20  # steps between two updates of the figures in the progress bar

Learn = Callable[[int, float], dict[str, float]]
Report = Callable[[int], None]


@dataclass
class Stage:
    """One stage of the training: what is trained, how fast, and where its checkpoints lie.

    `load` and `state` stand in for the plain ones where only a part of the weights is kept, as with adapters.
    """

    name: str
    folder: Path
    modules: dict[str, torch.nn.Module]
    optimizer: torch.optim.Optimizer
    peak_rate: float
    warmup: int  # steps
    checkpoint_every: int  # steps
    average: float | None = None  # decay of the averaged weights; None keeps none
    state: Callable[[], dict[str, torch.Tensor]] | None = None
    load: Callable[[dict[str, torch.Tensor]], None] | None = None
    progress: Progress = field(default_factory=Progress)
    ema: Ema | None = None

    def __post_init__(self) -> None:
        """Take up the last checkpoint, if there is one."""
        if self.average is not None:
            self.ema = Ema(self.weights(), decay=self.average)
        if not self.folder.exists():
            return
        self.progress = load_progress(self.folder)
        weights = load_file(self.folder / "weights.safetensors")
        (self.load or self._load)(weights)
        load_optimizer(self.folder, self.optimizer)
        if self.ema:
            averaged = load_file(self.folder / "ema.safetensors")
            self.ema.shadow = {
                name: averaged[name].to(tensor.device) for name, tensor in self.ema.shadow.items()
            }

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the weights that the checkpoint keeps."""
        return self.state() if self.state else named_state(self.modules)

    def _load(self, weights: dict[str, torch.Tensor]) -> None:
        load_named_state(self.modules, weights)

    def save(self) -> None:
        """Write a checkpoint."""
        save_checkpoint(
            self.folder,
            weights=self.weights(),
            ema=self.ema.shadow if self.ema else {},
            optimizer=self.optimizer,
            progress=self.progress,
        )

    def generator(self, seed: int) -> random.Random:
        """Seed torch and return a generator, both by the seed and the step that training goes on from."""
        torch.manual_seed(seed + self.progress.step)
        return random.Random(f"{seed} {self.name} {self.progress.step}")

    def finish(self) -> None:
        """Put the averaged weights into the modules."""
        if self.ema:
            load_named_state(self.modules, self.ema.shadow)


def train_stage(stage: Stage, learn: Learn, *, minutes: float, report: Report | None = None) -> None:
    """Train a stage until `minutes` are spent, earlier runs counted in, and leave it with its averaged weights.

    `learn` adds one batch's gradients, given the step's number and the share of the time that is spent, and returns
    figures to show. `report` is called after every checkpoint, with the step's number.
    """
    parameters = trainable(stage.modules.values())
    progress, clock = stage.progress, Clock(stage.progress, minutes=minutes)
    bar = tqdm(initial=progress.step, desc=stage.name, unit="step", mininterval=5)
    shown: dict[str, float] = {}
    saved = progress.step

    def save() -> None:
        progress.seconds = clock.seconds
        stage.save()
        if report:
            report(progress.step)

    while clock.share < 1:
        rate = cosine_rate(stage.peak_rate, step=progress.step, share=clock.share, warmup=stage.warmup)
        set_learning_rate(stage.optimizer, rate)
        stage.optimizer.zero_grad(set_to_none=True)
        smooth(shown, learn(progress.step, clock.share))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        stage.optimizer.step()
        progress.step += 1
        if stage.ema:
            stage.ema.update(stage.weights(), progress.step)
        bar.update()
        if progress.step % FIGURES_EVERY == 0:
            figures = {name: f"{value:.4f}" for name, value in shown.items()}
            bar.set_postfix(**figures, share=f"{clock.share:.3f}")
        if progress.step % stage.checkpoint_every == 0:
            save()
            saved = progress.step
    if progress.step > saved:
        save()
    bar.close()
    stage.finish()


def smooth(shown: dict[str, float], figures: dict[str, float]) -> None:
    """Move the shown figures towards the newest ones, over about fifty steps."""
    for name, value in figures.items():
        shown[name] = 0.98 * shown.get(name, value) + 0.02 * value
