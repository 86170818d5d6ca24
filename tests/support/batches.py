"""Quick requests for the engine, and memory that is nearly enough for a model."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from generation.engine import Batch, Drawn, Engine, Listeners, ModelRef
from generation.engine.cache_entry import CacheEntry
from generation.engine.planner import CONTEXT_BYTES, DENOISERS, ENCODERS, Memory
from generation.engine.sizes import weights_look

SIDE = 64

TinyModel = Callable[[str], ModelRef]
BatchMaker = Callable[..., Batch]


def quick(model: ModelRef, **changes: Any) -> Batch:
    """A request for a small picture in two steps, with changes."""
    base = Batch(
        model=model,
        prompt="a large red circle",
        negative_prompt="",
        width=SIDE,
        height=SIDE,
        num_inference_steps=2,
        guidance_scale=4.0,
        seed=7,
    )
    return dataclasses.replace(base, **changes)


def drawn(engine: Engine, batch: Batch, listeners: Listeners | None = None) -> Drawn:
    """A batch's pictures, before they are files."""
    with engine.drawing(batch) as sheet:
        row = sheet.add(batch, listeners or Listeners())
        while not list(sheet.step()):
            pass
    return row.drawn()


@contextmanager
def engines() -> Iterator[Callable[[], Engine]]:
    """Makes engines, which are closed at the end."""
    made: list[Engine] = []

    def engine() -> Engine:
        made.append(Engine(threads=1))
        return made[-1]

    yield engine
    for each in made:
        each.close()


def entry_of(engine: Engine, model: ModelRef) -> CacheEntry:
    """What the cache has of a model."""
    return engine.cache._entries[model.id]


def pixels(engine: Engine, batch: Batch) -> str:
    """What the first picture's pixels hash to."""
    return engine.run(batch).pictures[0].pixel_sha256


def memory_tight(model: ModelRef, device: torch.device) -> Memory:
    """With room to work, too little for all parts of a model by half of the smaller ones."""
    sizes = weights_look(model, device).sizes(float8=model.dtype == "float8")
    denoiser, encoders = (sum(sizes.get(name, 0) for name in names) for names in (DENOISERS, ENCODERS))
    room = sum(sizes.values()) + denoiser // 2 - min(denoiser, encoders) // 2
    return Memory(CONTEXT_BYTES + room, 1 << 40)


def memory_least(model: ModelRef, device: torch.device) -> Memory:
    """So little memory that blocks come one after another, and no more stays than has to."""
    weights = weights_look(model, device)
    eighths = model.dtype == "float8"
    sizes, least = weights.sizes(float8=eighths), weights.least_sizes(float8=eighths)
    rest = sum(size for name, size in sizes.items() if name not in (*ENCODERS, *DENOISERS))
    encoders = sum(least.get(name, 0) for name in ENCODERS)
    denoiser = next(name for name in DENOISERS if name in sizes)
    room = rest + max(least[denoiser] + sizes[denoiser] // 2, encoders + sizes[denoiser] // 2)
    return Memory(CONTEXT_BYTES + room, 1 << 40)
