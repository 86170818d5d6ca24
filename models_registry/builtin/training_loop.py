"""What every training stage repeats: steps in lower precision, the learning rate over time, averaged weights, checkpoints."""

import copy
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from models_registry.builtin.optimizer import Muon

PRECISIONS: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
LARGEST_GRADIENT: Final = 1.0  # norm over all parameters
FLOOR: Final = 0.02  # of the peak learning rate, at the end
WARMUP: Final = 100  # steps
LOOK_EVERY: Final = 20  # steps on a card between two looks at clock and loss, for which it has to stop
RUNS_BEFORE_CAPTURE: Final = 3
CHECKPOINT_S: Final = 120.0

Inputs = dict[str, torch.Tensor]
Loss = Callable[[torch.nn.ModuleDict, Inputs], torch.Tensor]


class Learner:
    """Trains the parameters of some modules that take gradients: fp32 weights, products in the precision asked for.

    The products are made by copies of the modules (`working`). On a card each kind of step (a loss, shapes of inputs) is
    captured as a CUDA graph after its first runs, since launching a thousand small operators takes longer than running
    them. `captures` says whether a loss can be captured: it must not look at a number on the card.
    """

    def __init__(
        self,
        modules: dict[str, torch.nn.Module],
        *,
        precision: str,
        average: float,
        captures: bool = True,
    ) -> None:
        self.modules = torch.nn.ModuleDict(modules)
        self.dtype = PRECISIONS[precision]
        self.working = copy.deepcopy(self.modules).to(self.dtype)
        self._average = average
        self.weights = {
            name: tensor for name, tensor in self.modules.named_parameters() if tensor.requires_grad
        }
        self._copies = [tensor for tensor in self.working.parameters() if tensor.requires_grad]
        self.device = self._copies[0].device
        self.averaged = {name: tensor.detach().clone() for name, tensor in self.weights.items()}
        self.optimizer = Muon(self.weights)
        self.steps = 0
        self._rate = torch.zeros((), device=self.device)
        self._newest = torch.zeros((), device=self.device)
        self._graphs: dict[object, tuple[torch.cuda.CUDAGraph, Inputs, torch.Tensor]] = {}
        self._runs: dict[object, int] = {}
        self._captures = captures and self.device.type == "cuda"
        if self._captures:
            self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def step(self, loss: Loss, inputs: Inputs, *, rate: float) -> torch.Tensor:
        """Learn from inputs once; returns the loss, which the next step of this kind may overwrite."""
        self.steps += 1
        self._rate.fill_(rate)
        self._newest.fill_(1 - min(self._average, (1 + self.steps) / (10 + self.steps)))
        if not self._captures:
            return self._learn(loss, inputs)
        kind = (loss, tuple(tensor.shape for tensor in inputs.values()))
        self._runs[kind] = self._runs.get(kind, 0) + 1
        if self._runs[kind] <= RUNS_BEFORE_CAPTURE:
            # what a graph is made of must have run before, and on another stream than the default one
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                result = self._learn(loss, inputs)
            torch.cuda.current_stream().wait_stream(self._stream)
            return result
        if kind not in self._graphs:
            self._graphs[kind] = self._capture(loss, inputs)
        graph, places, result = self._graphs[kind]
        for name, tensor in inputs.items():
            places[name].copy_(tensor)
        graph.replay()
        return result

    def _capture(self, loss: Loss, inputs: Inputs) -> tuple[torch.cuda.CUDAGraph, Inputs, torch.Tensor]:
        """Return a graph of one step, where its inputs have to lie, and where its loss will."""
        places = {name: tensor.clone() for name, tensor in inputs.items()}
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = self._learn(loss, places)
        return graph, places, result

    def _learn(self, loss: Loss, inputs: Inputs) -> torch.Tensor:
        with torch.no_grad():
            torch._foreach_copy_(self._copies, [*self.weights.values()])
        for tensor in self._copies:
            tensor.grad = None
        result = loss(self.working, inputs)
        result.backward()
        with torch.no_grad():
            given = [
                torch.zeros_like(weight) if tensor.grad is None else tensor.grad.float()
                for tensor, weight in zip(self._copies, self.weights.values(), strict=True)
            ]
            norm = torch.nn.utils.get_total_norm(given)
            torch._foreach_mul_(given, (LARGEST_GRADIENT / (norm + 1e-6)).clamp(max=1))
            self.optimizer.update(self.weights, dict(zip(self.weights, given, strict=True)), self._rate)
            for name, averaged in self.averaged.items():
                averaged.lerp_(self.weights[name], self._newest)
        return result.detach()

    def wait(self) -> None:
        """Wait until the device has made all steps."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @torch.no_grad()
    def finish(self) -> None:
        """Put the averaged weights in the modules."""
        for name, tensor in self.weights.items():
            tensor.copy_(self.averaged[name])


def learning_rate(peak: float, *, step: int, share: float) -> float:
    """Return the learning rate: linear warm-up over `WARMUP` steps, then a cosine to its `FLOOR` when the time is up."""
    cosine = 0.5 * (1 + math.cos(math.pi * share))
    return peak * min(1.0, (step + 1) / WARMUP) * (FLOOR + (1 - FLOOR) * cosine)


def train_stage(
    name: str,
    run: Path,
    learner: Learner,
    learn: Callable[[float], tuple[Loss, Inputs]],
    *,
    minutes: float,
    peak_rate: float,
) -> None:
    """Train until `minutes` are spent, earlier runs of the stage in `run` counted in; leaves averaged weights in the modules.

    `learn` is given the share of the time that is spent, and returns the next step's loss and inputs.
    """
    folder = run / name
    before = restore(folder, learner)
    began = saved = time.monotonic()
    share = min(1.0, before / (60 * minutes))
    every = LOOK_EVERY if learner.device.type == "cuda" else 1
    bar = tqdm(initial=learner.steps, desc=name, unit="step", mininterval=5)
    while share < 1:
        loss, inputs = learn(share)
        rate = learning_rate(peak_rate, step=learner.steps, share=share)
        result = learner.step(loss, inputs, rate=rate)
        bar.update()
        if learner.steps % every == 0:
            bar.set_postfix(loss=f"{result.item():.4f}", share=f"{share:.3f}", refresh=False)
            now = time.monotonic()
            share = min(1.0, (before + now - began) / (60 * minutes))
            if now - saved > CHECKPOINT_S or share == 1:
                save(folder, learner, seconds=before + now - began)
                saved = now
    bar.close()
    learner.finish()


def save(folder: Path, learner: Learner, *, seconds: float) -> None:
    """Write a checkpoint beside the old one, then put it in its place: safetensors and JSON, nothing is pickled."""
    fresh, old = (folder.with_name(f"{folder.name}.{word}") for word in ("new", "old"))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name, tensors in (
        ("weights", learner.weights),
        ("averaged", learner.averaged),
        ("optimizer", learner.optimizer.state),
    ):
        kept = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
        save_file(kept, fresh / f"{name}.safetensors")
    (fresh / "progress.json").write_text(json.dumps({"steps": learner.steps, "seconds": seconds}))
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@torch.no_grad()
def restore(folder: Path, learner: Learner) -> float:
    """Take up a checkpoint, if there is one; returns the seconds that were spent before."""
    if not folder.exists():
        return 0.0
    for name, tensors in (
        ("weights", learner.weights),
        ("averaged", learner.averaged),
        ("optimizer", learner.optimizer.state),
    ):
        for key, tensor in load_file(folder / f"{name}.safetensors").items():
            tensors[key].copy_(tensor)
    progress = json.loads((folder / "progress.json").read_text())
    learner.steps = progress["steps"]
    return float(progress["seconds"])
