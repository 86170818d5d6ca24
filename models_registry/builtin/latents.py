"""Encoded scenes on disk: drawn and encoded once, by a process beside the training, in shards of safetensors."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from models_registry.builtin import SIZE_MULTIPLE
from models_registry.builtin.drawing import draw_scene
from models_registry.builtin.scenes import Item, Scene, Style, sample_scene

SHARD: Final = 250
ENCODE_BATCH: Final = 10


def scene_from_json(data: dict[str, Any]) -> Scene:
    """Return the scene that `dataclasses.asdict` was applied to."""
    items = tuple(Item(**item) for item in data["items"])
    return Scene(items, tuple(data["background"]), data["split"], data["place"])


def pixels_per_cell(vae: AutoencoderTiny) -> int:
    """Return the side of the square of pixels that one latent cell covers: every stage but the first halves."""
    return int(2 ** (len(vae.config.encoder_block_out_channels) - 1))


@torch.no_grad()
def encode_scenes(
    vae: AutoencoderTiny,
    scenes: list[Scene],
    size: int,
    *,
    rng: random.Random,
    device: str,
    style: Style = "filled",
) -> torch.Tensor:
    """Return the latents of scenes of `size` pixels (count x 4 x size/16 x size/16, on the CPU).

    The half-size autoencoder gives them from pictures of half the side.
    """
    side = size // SIZE_MULTIPLE * pixels_per_cell(vae)
    latents = []
    for start in range(0, len(scenes), ENCODE_BATCH):
        batch = scenes[start : start + ENCODE_BATCH]
        drawn = [np.asarray(draw_scene(scene, side, style=style, rng=rng)) for scene in batch]
        pixels = torch.from_numpy(np.stack(drawn)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        latents.append((vae.encode(pixels).latents * vae.config.scaling_factor).cpu())
    return torch.cat(latents)


def write_shards(
    vae: AutoencoderTiny,
    folder: Path,
    *,
    size: int,
    count: int,
    seed: int,
    device: str,
    style: Style = "filled",
) -> None:
    """Write shards of `SHARD` training scenes until `count` scenes are there; shards that exist stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in tqdm(range(count // SHARD), desc=f"encoding {size} px", unit="shard", mininterval=5):
        path = folder / f"{style}-{size}-{index:04}.safetensors"
        if path.exists():
            continue
        rng = random.Random(f"{seed} {path.name}")
        scenes = [sample_scene(rng, held_out=False) for _ in range(SHARD)]
        latents = encode_scenes(vae, scenes, size, rng=rng, device=device, style=style)
        described = json.dumps([asdict(scene) for scene in scenes])
        fresh = path.with_suffix(".new")
        save_file({"latents": latents.half().contiguous()}, fresh, metadata={"scenes": described})
        fresh.rename(path)


class LatentPool:
    """The shards of one size and style; `refresh` takes in those that were written since.

    `odds` says how often a scene is sampled, compared with others; without it all are sampled alike.
    """

    def __init__(
        self,
        folder: Path,
        *,
        size: int,
        style: str = "filled",
        odds: Callable[[Scene], float] | None = None,
    ) -> None:
        self._folder = folder
        self._pattern = f"{style}-{size}-*.safetensors"
        self._seen: set[str] = set()
        self._latents: list[torch.Tensor] = []
        self.scenes: list[Scene] = []
        self._odds = odds
        self._summed: list[float] | None = None
        self.refresh()

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self.scenes)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Scene]]:
        """Go through the latents and their scenes."""
        return zip(self._latents, self.scenes, strict=True)

    def refresh(self) -> None:
        """Read the shards that are new."""
        for path in sorted(self._folder.glob(self._pattern)):
            if path.name in self._seen:
                continue
            self._seen.add(path.name)
            self._latents.extend(load_file(path)["latents"])
            self.scenes += [scene_from_json(data) for data in _metadata(path)]
        if self._odds:
            self._summed = list(accumulate(map(self._odds, self.scenes)))

    def sample(self, rng: random.Random, count: int) -> tuple[torch.Tensor, list[Scene]]:
        """Return `count` random latents (float32) and their scenes."""
        picks = rng.choices(range(len(self.scenes)), cum_weights=self._summed, k=count)
        return torch.stack([self._latents[pick] for pick in picks]).float(), [
            self.scenes[pick] for pick in picks
        ]


def _metadata(path: Path) -> list[dict[str, Any]]:
    """Return the scenes that a shard describes."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    scenes: list[dict[str, Any]] = json.loads(header["__metadata__"]["scenes"])
    return scenes
