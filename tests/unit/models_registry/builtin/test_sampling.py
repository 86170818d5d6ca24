"""Scenes to learn from: what their captions leave open, and that torch draws them as Pillow does."""

import os

# Spinning threads slow every step by an order of magnitude beside a busy neighbour; read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from models_registry.builtin.captions import FILLERS, QUESTIONS, sample_caption, sample_omissions
from models_registry.builtin.drawing import draw_scene
from models_registry.builtin.rendering import render
from models_registry.builtin.sampling import (
    CAPTIONS,
    Sample,
    Sampler,
    as_tensors,
    joined,
    sample_chunk,
    sample_learned,
)
from models_registry.builtin.scenes import (
    SHAPES,
    Item,
    Omissions,
    Scene,
    Style,
    is_held_out,
    sample_scene,
    understood,
)

BARE = Omissions((False,), (False,), (False,), place=False, ground=False)


def one(shape: str, colour: str, size: str, place: str, *, ground: str) -> Scene:
    return Scene((Item(shape, colour, size, 0.2, 0.5, 0.1),), (ground,), "plain", place)


@pytest.mark.parametrize("style", ["filled", "outline", "pastel"])
def test_torch_draws_what_pillow_draws(style: Style) -> None:
    rng = random.Random(1)
    items = [Item(shape, "red", "large", 0.45, 0.55, 0.27) for shape in SHAPES]
    scenes = [Scene((item,), ("white",), "plain", "centre") for item in items]
    scenes += [sample_scene(rng, held_out=False, pairs=1, splits=1) for _ in range(4)]
    drawn = render(as_tensors(scenes, None, style=style), 256, 256)
    for scene, picture in zip(scenes, drawn, strict=True):
        wanted = np.asarray(draw_scene(scene, 256, style=style)).astype(np.float64)
        seen = ((picture + 1) * 127.5).permute(1, 2, 0).numpy()
        difference = np.abs(seen - wanted).max(axis=2)
        assert difference.mean() < 0.5
        assert (difference > 128).mean() < 1e-3


def test_pictures_that_are_not_square_keep_shapes_in_proportion() -> None:
    scenes = as_tensors([one("square", "red", "small", "left", ground="white")], None)
    (picture,) = render(scenes, 128, 256)
    inside = picture[1] < 0  # red has little green
    rows, columns = inside.any(1).sum(), inside.any(0).sum()
    assert rows == columns == pytest.approx(0.2 * 128, abs=1)
    assert inside.nonzero()[:, 1].float().mean() / 256 == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize(
    ("omitted", "expected"),
    [
        (replace(BARE, ground=True), lambda scene: scene.background == ("white",)),
        (replace(BARE, place=True), lambda scene: scene.place == "centre" and abs(scene.items[0].x - 0.5) < 0.03),
        (replace(BARE, sizes=(True,)), lambda scene: scene.items[0].size == "large"),
        (replace(BARE, shapes=(True,)), lambda scene: scene.items[0].shape == "circle"),
        (replace(BARE, colours=(True,)), lambda scene: scene.items[0].colour == "red"),  # blue is the ground
    ],
)  # fmt: skip
def test_what_a_caption_leaves_open_is_decided_by_convention(
    omitted: Omissions, expected: Callable[[Scene], bool]
) -> None:
    said = one("star", "green", "small", "left", ground="blue")
    meant = understood(said, omitted, random.Random(0))
    assert expected(meant)
    assert understood(said, BARE, random.Random(0)).items[0].shape == "star"
    kept = {"shape", "colour", "size"} - {
        name[:-1] for name in ("shapes", "colours", "sizes") if any(getattr(omitted, name))
    }
    assert all(getattr(meant.items[0], name) == getattr(said.items[0], name) for name in kept)


def test_open_colours_differ_from_all_others() -> None:
    rng = random.Random(2)
    for _ in range(2000):
        scene = sample_scene(rng, held_out=False, pairs=0.7)
        each = tuple(rng.random() < 0.5 for _ in scene.items)
        omitted = Omissions(each, each, (False,) * len(each), place=True, ground=rng.random() < 0.5)
        meant = understood(scene, omitted, rng)
        assert not {item.colour for item in meant.items} & set(meant.background)


def test_nothing_that_is_held_out_is_learned_from() -> None:
    rng = random.Random(3)
    learned = [sample_learned(rng) for _ in range(300)]
    assert not any(is_held_out(scene) for scene, _ in learned)
    empty = [captions for _, captions in learned if captions == [""] * CAPTIONS]
    assert 10 < len(empty) < 60
    assert all("" not in captions for _, captions in learned if captions not in empty)


def test_captions_say_only_what_the_scene_shows() -> None:
    """Of the background, for example: a caption that does not name it has a white, black or gray one."""
    rng = random.Random(4)
    grounds = [
        scene.background[0]
        for scene, captions in (sample_learned(rng) for _ in range(300))
        if captions[0] and not any(word in captions[0] for word in ("background", "backdrop"))
    ]
    assert len(grounds) > 20
    assert set(grounds) <= {"white", "black", "gray"}


def test_a_caption_may_say_nothing_but_a_filler() -> None:
    rng = random.Random(5)
    said = one("star", "green", "small", "left", ground="blue")
    everything = Omissions((True,), (True,), (True,), place=True, ground=True)
    assert everything in [sample_omissions(said, rng) for _ in range(2000)]
    assert sample_caption(said, rng, omitted=everything) in FILLERS


def test_hard_scenes_come_more_often() -> None:
    rng = random.Random(6)
    learned = [scene for scene, captions in (sample_learned(rng) for _ in range(400)) if captions[0] == ""]
    learned += [sample_learned(rng)[0] for _ in range(200)]
    stars = sum(item.shape == "star" for scene in learned for item in scene.items)
    assert stars / sum(len(scene.items) for scene in learned) > 1.3 / len(SHAPES)


def same(one: Sample, other: Sample) -> bool:
    return all(map(torch.equal, one.tensors(), other.tensors()))


def test_a_chunk_depends_on_its_seed_alone() -> None:
    first = sample_chunk("a", "filled", 6)
    assert same(first, sample_chunk("a", "filled", 6))
    assert not same(first, sample_chunk("b", "filled", 6))
    assert first.ids.shape == (6, CAPTIONS, 32)
    assert first.answers.shape == (6, len(QUESTIONS))


@pytest.mark.long
@pytest.mark.slow
def test_processes_sample_what_one_would() -> None:
    sampler = Sampler(1)
    try:
        sample = sampler.begin(5, seed="s")()
    finally:
        sampler.close()
    assert same(sample, joined([sample_chunk("s filled 0", "filled", 5)]))
