"""First training stage: the text encoder learns to say what a caption describes, before it steers a denoiser.

A text encoder trained through the denoiser alone is ignored for its first thousands of steps; a minute of plain
classification (which shapes, colours, sizes, places?) gives the cross-attention something to listen to at once. What a
caption leaves open is answered by convention.
"""

from pathlib import Path
from typing import Final

import torch
from torch.nn import functional
from transformers import CLIPTextModel

from models_registry.builtin.architecture import TEXT_WIDTH
from models_registry.builtin.captions import QUESTIONS
from models_registry.builtin.sampling import CAPTIONS, Sample
from models_registry.builtin.training_loop import Inputs, Learner, Loss, train_stage

BATCH: Final = 1024
PEAK_RATE: Final = 1.5e-3
AVERAGE: Final = 0.998


def answer_loss(modules: torch.nn.ModuleDict, inputs: Inputs) -> torch.Tensor:
    """Return the mean cross-entropy of all answers."""
    hidden = modules["encoder"](inputs["ids"]).last_hidden_state
    logits = modules["head"](hidden[:, -1])  # the last token has read the whole caption
    parts = logits.float().split([*map(len, QUESTIONS.values())], dim=1)
    losses = [functional.cross_entropy(part, inputs["answers"][:, k]) for k, part in enumerate(parts)]
    return torch.stack(losses).mean()


def train_text(
    run: Path, encoder: CLIPTextModel, sample: Sample, *, minutes: float, batch: int = BATCH
) -> None:
    """Train `encoder` on a sample on its device, for `minutes` in all."""
    device = encoder.device
    head = torch.nn.Linear(TEXT_WIDTH, sum(map(len, QUESTIONS.values()))).to(device)
    modules: dict[str, torch.nn.Module] = {"encoder": encoder, "head": head}
    learner = Learner(modules, precision="fp32", average=AVERAGE, captures=False)

    def learn(_: float) -> tuple[Loss, Inputs]:
        picks = torch.randint(len(sample), (batch,), device=device)
        said = torch.randint(CAPTIONS, (batch,), device=device)
        return answer_loss, {"ids": sample.ids[picks, said].long(), "answers": sample.answers[picks]}

    train_stage("text", run, learner, learn, minutes=minutes, peak_rate=PEAK_RATE)
