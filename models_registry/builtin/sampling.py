"""Samples training scenes with their captions, by several processes, as tensors that a device can draw from."""

import random
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import cache
from multiprocessing import get_context
from typing import Any, Final

import numpy.typing as npt
import torch
from transformers import CLIPTokenizer

from models_registry.builtin.architecture import build_tokenizer
from models_registry.builtin.captions import FILLED, answers, sample_caption, sample_omissions
from models_registry.builtin.drawing import style_colour
from models_registry.builtin.rendering import MOST_ITEMS, SPLITS, SceneBatch, template_index
from models_registry.builtin.scenes import Item, Scene, Style, is_held_out, sample_scene, understood

CAPTIONS: Final = 4  # per scene
UNCONDITIONAL: Final = 0.1  # share of scenes under the empty caption, for classifier-free guidance
PAIRS: Final = 0.5
CHOICE: Final = 4  # scenes of which one is taken, because some come more often than others
CHUNK: Final = 2000  # scenes that a process samples at a time
ABSENT: Final = Item("circle", "black", "small", 0.5, 0.5, 0.0)


@cache
def _tokenizer() -> CLIPTokenizer:
    return build_tokenizer()


def tokenize(captions: list[str]) -> torch.Tensor:
    """Return token ids padded to the tokenizer's full length, as the stock pipelines pad them."""
    encoded = _tokenizer()(captions, padding="max_length", truncation=True, return_tensors="pt")
    ids: torch.Tensor = encoded.input_ids
    return ids


def item_odds(item: Item) -> float:
    """Return how often a shape is learned from, compared with an easy one: small ones and stars come more often."""
    return 1.0 + (item.size == "small") + 2 * (item.shape == "star")


def scene_odds(scene: Scene) -> float:
    """Return how often a scene is learned from, compared with one whose shapes are easy."""
    return 1.0 + sum(item_odds(item) - 1 for item in scene.items)


def as_tensors(scenes: list[Scene], rng: random.Random | None, *, style: Style = "filled") -> SceneBatch:
    """Return scenes as tensors; `rng` varies their colours a little."""

    def channels(name: str) -> list[float]:
        return [value / 127.5 - 1 for value in style_colour(name, style, rng)]

    grounds, splits, shapes, colours, boxes = [], [], [], [], []
    for scene in scenes:
        named = [channels(name) for name in scene.background]
        grounds.append([named[0], named[-1]])
        splits.append(SPLITS.index(scene.split))
        items = [*scene.items, *[ABSENT] * (MOST_ITEMS - len(scene.items))]
        shapes.append([template_index(item.shape, style) for item in items])
        colours.append([channels(item.colour) for item in items])
        boxes.append([[item.x, item.y, item.radius] for item in items])
    return SceneBatch(
        torch.tensor(grounds),
        torch.tensor(splits),
        torch.tensor(shapes),
        torch.tensor(colours),
        torch.tensor(boxes),
    )


def sample_learned(rng: random.Random) -> tuple[Scene, list[str]]:
    """Draw a scene to learn from and its captions: what they leave open is in the scene as convention has it."""
    while True:
        candidates = [sample_scene(rng, held_out=False, pairs=PAIRS) for _ in range(CHOICE)]
        scene = rng.choices(candidates, weights=[scene_odds(scene) for scene in candidates])[0]
        if rng.random() < UNCONDITIONAL:
            return scene, [""] * CAPTIONS
        omitted = sample_omissions(scene, rng)
        meant = understood(scene, omitted, rng)
        if not is_held_out(meant):
            return meant, [
                sample_caption(meant, rng, omitted=omitted, fillers=FILLED) for _ in range(CAPTIONS)
            ]


@dataclass(frozen=True)
class Sample:
    """Scenes, the token ids of their captions, and the right answers to what can be asked of these (`QUESTIONS`)."""

    scenes: SceneBatch
    ids: torch.Tensor  # scenes x CAPTIONS x tokens, int16
    answers: torch.Tensor  # scenes x questions

    def tensors(self) -> list[torch.Tensor]:
        """Return all tensors."""
        return [*(getattr(self.scenes, field.name) for field in fields(SceneBatch)), self.ids, self.answers]

    @classmethod
    def of(cls, tensors: list[torch.Tensor]) -> "Sample":
        """Return the sample with these tensors."""
        *scenes, ids, wanted = tensors
        return cls(SceneBatch(*scenes), ids, wanted)

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self.scenes)

    def __getitem__(self, part: slice) -> "Sample":
        """Return a part of the sample."""
        return Sample(self.scenes[part], self.ids[part], self.answers[part])

    def to(self, device: str | torch.device) -> "Sample":
        """Return the sample on a device."""
        return Sample(self.scenes.to(device), self.ids.to(device), self.answers.to(device))


def sample_chunk(seed: str, style: Style, count: int) -> Sample:
    """Return `count` scenes with their captions; what they are depends on `seed` alone."""
    rng = random.Random(seed)
    scenes, captions = [], []
    for _ in range(count):
        scene, said = sample_learned(rng)
        scenes.append(scene)
        captions += said
    ids = tokenize(captions).to(torch.int16)
    wanted = torch.tensor([answers(scene) for scene in scenes])
    return Sample(as_tensors(scenes, rng, style=style), ids.view(count, CAPTIONS, -1), wanted)


def _packed_chunk(seed: str, style: Style, count: int) -> list[npt.NDArray[Any]]:
    """Return a chunk's tensors as arrays: torch would hand over each tensor as an open file."""
    return [tensor.numpy() for tensor in sample_chunk(seed, style, count).tensors()]


def joined(parts: Iterable[Sample]) -> Sample:
    """Return several samples as one."""
    tensors = zip(*(sample.tensors() for sample in parts), strict=True)
    return Sample.of([torch.cat(several) for several in tensors])


class Sampler:
    """Processes that sample."""

    def __init__(self, processes: int) -> None:
        self._pool = ProcessPoolExecutor(
            processes, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
        )

    def begin(self, count: int, *, seed: str, style: Style = "filled") -> Callable[[], Sample]:
        """Begin to sample `count` scenes; returns what waits for them."""
        futures = [
            self._pool.submit(_packed_chunk, f"{seed} {style} {start}", style, min(CHUNK, count - start))
            for start in range(0, count, CHUNK)
        ]

        def wait() -> Sample:
            chunks = [[torch.from_numpy(array) for array in future.result()] for future in futures]
            return joined(map(Sample.of, chunks))

        return wait

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(cancel_futures=True)
