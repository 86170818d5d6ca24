"""Second training stage: the text encoder learns to say what a caption describes, before it steers a denoiser.

A text encoder trained through the denoiser alone is ignored for its first thousands of steps; a minute of plain
classification (which shapes, colours, sizes, places?) gives the cross-attention something to listen to at once.
"""

from pathlib import Path
from typing import Final

import torch
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from models_registry.builtin.architecture import TEXT_WIDTH, build_text_encoder, build_tokenizer
from models_registry.builtin.captions import sample_caption
from models_registry.builtin.checkpoints import trainable
from models_registry.builtin.scenes import PALETTE, POSITIONS, RADII, RELATIONS, SHAPES, Scene, sample_scene
from models_registry.builtin.training_loop import Stage, train_stage

CAPTIONS_PER_STEP: Final = 64
PEAK_RATE: Final = 1.5e-3
NOTHING: Final = "nothing"
# What is asked of a caption, and the possible answers.
QUESTIONS: Final[dict[str, tuple[str, ...]]] = {
    "shape 1": SHAPES,
    "shape 2": (NOTHING, *SHAPES),
    "colour 1": tuple(PALETTE),
    "colour 2": (NOTHING, *PALETTE),
    "size 1": tuple(RADII),
    "size 2": (NOTHING, *RADII),
    "ground 1": tuple(PALETTE),
    "ground 2": (NOTHING, *PALETTE),
    "split": ("plain", "columns", "rows"),
    "place": (*POSITIONS, *RELATIONS),
}


def answers(scene: Scene) -> list[int]:
    """Return the right answer's index for every question."""
    given = {"split": scene.split, "place": scene.place}
    for number in (1, 2):
        item = scene.items[number - 1] if number <= len(scene.items) else None
        given[f"shape {number}"] = item.shape if item else NOTHING
        given[f"colour {number}"] = item.colour if item else NOTHING
        given[f"size {number}"] = item.size if item else NOTHING
        given[f"ground {number}"] = (
            scene.background[number - 1] if number <= len(scene.background) else NOTHING
        )
    return [choices.index(given[question]) for question, choices in QUESTIONS.items()]


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Return token ids padded to the tokenizer's full length, as the stock pipelines pad them."""
    encoded = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
    ids: torch.Tensor = encoded.input_ids
    return ids


def train_text(run: Path, *, minutes: float, seed: int, device: str) -> CLIPTextModel:
    """Train, or train on from `run`/text, for `minutes` in all; return the text encoder."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    encoder = build_text_encoder(tokenizer).to(device)
    head = torch.nn.Linear(TEXT_WIDTH, sum(map(len, QUESTIONS.values()))).to(device)
    modules = {"text_encoder": encoder, "head": head}
    optimizer = torch.optim.AdamW(
        trainable(modules.values()), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01
    )
    stage = Stage(
        "text", run / "text", modules, optimizer, peak_rate=PEAK_RATE, warmup=200, checkpoint_every=200
    )
    rng = stage.generator(seed)
    widths = [*map(len, QUESTIONS.values())]

    def learn(_: int, __: float) -> dict[str, float]:
        scenes = [sample_scene(rng, held_out=False) for _ in range(CAPTIONS_PER_STEP)]
        ids = tokenize(tokenizer, [sample_caption(scene, rng) for scene in scenes]).to(device)
        wanted = torch.tensor([answers(scene) for scene in scenes], device=device)
        hidden = encoder(ids).last_hidden_state
        logits = head(hidden[:, -1]).split(widths, dim=1)  # the last token has read the whole caption
        losses = [functional.cross_entropy(part, wanted[:, k]) for k, part in enumerate(logits)]
        loss = torch.stack(losses).mean()
        loss.backward()
        right = [(part.argmax(1) == wanted[:, k]).float().mean() for k, part in enumerate(logits)]
        return {"loss": loss.item(), "right": torch.stack(right).mean().item()}

    train_stage(stage, learn, minutes=minutes)
    return encoder
