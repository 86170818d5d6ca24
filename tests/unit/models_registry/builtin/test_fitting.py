"""Fitting and measuring: what a drawn picture is known to hold must be found in it."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from models_registry.builtin.drawing import draw_scene
from models_registry.builtin.fitting import fit_scene, item_mask
from models_registry.builtin.measures import edge_width, overlaps, roundness
from models_registry.builtin.scenes import PALETTE, SHAPES, Item, Scene, sample_scene


def scene_of(shape: str, x: float = 0.5, y: float = 0.5, radius: float = 0.2) -> Scene:
    return Scene((Item(shape, "red", "medium", x, y, radius),), ("white",), "plain", "centre")


def drawn(scene: Scene, side: int = 256) -> np.ndarray:
    return np.asarray(draw_scene(scene, side))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_found_where_it_was_drawn_and_not_where_it_was_asked_for(shape: str) -> None:
    fitted = fit_scene(scene_of(shape), drawn(scene_of(shape, x=0.42, y=0.61, radius=0.17)))
    assert fitted is not None
    item = fitted.items[0]
    assert (item.shape, item.colour) == (shape, "red")
    assert (item.x, item.y, item.radius) == pytest.approx((0.42, 0.61, 0.17), abs=0.004)


def test_both_of_a_pair_are_found_even_in_one_colour() -> None:
    rng = random.Random(3)
    scenes = [sample_scene(rng, held_out=False, pairs=1.0) for _ in range(12)]
    scenes += [
        replace(scene, items=tuple(replace(item, colour=scene.items[0].colour) for item in scene.items))
        for scene in scenes[:4]
    ]
    for scene in scenes:
        fitted = fit_scene(scene, drawn(scene))
        assert fitted is not None
        for item, found in zip(scene.items, fitted.items, strict=True):
            assert (found.x, found.y, found.radius) == pytest.approx((item.x, item.y, item.radius), abs=0.01)


def test_what_is_not_there_is_not_fitted() -> None:
    assert fit_scene(scene_of("star"), drawn(scene_of("square", radius=0.01))) is None
    blank = np.full((256, 256, 3), PALETTE["white"], dtype=np.uint8)
    assert fit_scene(scene_of("star"), blank) is None
    assert fit_scene(scene_of("ring"), drawn(scene_of("cross"))) is None
    red = np.full((256, 256, 3), PALETTE["red"], dtype=np.uint8)
    assert all(fit_scene(scene_of(shape), red) is None for shape in SHAPES)
    assert overlaps(scene_of("star"), blank) == [0.0]


def test_a_drawn_shape_covers_its_ideal_and_a_wobbly_one_less() -> None:
    straight = drawn(scene_of("star"), 512)
    rows, columns = np.mgrid[0:512, 0:512]
    wobbly = straight[(rows + 9 * np.sin(columns / 9)).astype(int).clip(0, 511), columns]
    assert overlaps(scene_of("star"), straight)[0] > 0.98
    assert overlaps(scene_of("star"), wobbly)[0] < 0.9


def ellipse(stretch: float) -> np.ndarray:
    ys, xs = np.mgrid[0:512, 0:512] - 255.5
    return np.hypot(xs * stretch, ys) < 120


def test_a_circle_is_round_and_an_ellipse_is_as_little_as_reckoned() -> None:
    assert roundness(ellipse(1.0)) < 0.003
    # radii of an ellipse of axes 1 and 1/s, equally spaced in angle
    radii = [
        1 / math.hypot(1.2 * math.cos(turn), math.sin(turn)) for turn in np.linspace(0, 2 * math.pi, 720)
    ]
    mean = sum(radii) / len(radii)
    reckoned = sum(abs(radius - mean) for radius in radii) / len(radii) / mean
    assert roundness(ellipse(1.2)) == pytest.approx(reckoned, abs=0.01)


def test_a_drawn_circle_is_rounder_than_a_square() -> None:
    circle, square = (
        item_mask(scene_of(shape), 0, drawn(scene_of(shape), 512)) for shape in ("circle", "square")
    )
    assert roundness(circle) < 0.005
    assert roundness(square) > 0.08


def test_edges_of_drawings_are_narrow_and_blurred_ones_as_wide_as_the_blur() -> None:
    scene = scene_of("diamond")
    sharp = draw_scene(scene, 512)
    assert edge_width(scene, np.asarray(sharp)) < 1.5
    blurred = [
        edge_width(scene, np.asarray(sharp.filter(ImageFilter.GaussianBlur(radius)))) for radius in (2, 4)
    ]
    # between a tenth and nine tenths of a Gaussian's integral lie 2.56 standard deviations
    assert blurred == pytest.approx([2.56 * 2, 2.56 * 4], rel=0.15)


def test_measures_take_any_size() -> None:
    picture = Image.fromarray(drawn(scene_of("circle"), 512)).resize((300, 300), Image.Resampling.LANCZOS)
    assert overlaps(scene_of("circle"), np.asarray(picture))[0] > 0.97
