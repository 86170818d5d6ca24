"""The detector must read drawn scenes without a mistake before it may judge generated ones."""

import random

import numpy as np
import pytest
from PIL import Image, ImageFilter

from models_registry.builtin.detector import UNKNOWN, read_picture
from models_registry.builtin.drawing import draw_scene
from models_registry.builtin.scenes import PALETTE, POSITIONS, RADII, SHAPES, Item, Scene, sample_scene


def scene_of(shape: str, colour: str = "red", ground: str = "white", size: str = "medium") -> Scene:
    item = Item(shape, colour, size, 0.5, 0.5, sum(RADII[size]) / 2)
    return Scene((item,), (ground,), "plain", "centre")


@pytest.mark.parametrize("size", ["small", "medium", "large"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_recognised_in_every_size(shape: str, size: str) -> None:
    found = read_picture(np.asarray(draw_scene(scene_of(shape, size=size), 512))).only()
    assert found is not None
    assert (found.shape, found.size, found.position) == (shape, size, "centre")


@pytest.mark.parametrize("colour", sorted(PALETTE))
def test_every_colour_is_recognised_as_shape_and_as_background(colour: str) -> None:
    other = "blue" if colour != "blue" else "yellow"
    reading = read_picture(np.asarray(draw_scene(scene_of("square", colour, other), 256)))
    assert [item.colour for item in reading.found] == [colour]
    assert read_picture(np.asarray(draw_scene(scene_of("square", other, colour), 256))).background == (
        colour,
    )


@pytest.mark.slow
@pytest.mark.parametrize("pixels", [256, 512, 640])
def test_sampled_scenes_are_read_in_full(pixels: int) -> None:
    rng = random.Random(pixels)
    for _ in range(40):
        scene = sample_scene(rng, held_out=False)
        reading = read_picture(np.asarray(draw_scene(scene, pixels, rng=rng)))
        assert (reading.background, reading.split) == (scene.background, scene.split)
        assert len(reading.found) == len(scene.items)
        for item in scene.items:
            found = min(reading.found, key=lambda one: abs(one.x - item.x) + abs(one.y - item.y))
            assert (found.shape, found.colour, found.size) == (item.shape, item.colour, item.size)
            assert abs(found.x - item.x) < 0.02
            assert abs(found.radius - item.radius) < 0.02
        if len(scene.items) == 1:
            assert reading.found[0].position == scene.place


@pytest.mark.parametrize("place", sorted(POSITIONS))
def test_every_position_is_named(place: str) -> None:
    across, down = POSITIONS[place]
    item = Item("circle", "green", "small", 0.5 + 0.3 * across, 0.5 + 0.3 * down, 0.11)
    found = read_picture(np.asarray(draw_scene(Scene((item,), ("black",), "plain", place), 256))).only()
    assert found is not None
    assert found.position == place


def test_a_blob_is_no_shape() -> None:
    """A region that fits nothing must not pass for its nearest neighbour."""
    pixels = np.full((256, 256, 3), 248, dtype=np.uint8)
    pixels[60:200, 60:90] = PALETTE["red"]
    pixels[170:200, 60:180] = PALETTE["red"]
    found = read_picture(pixels).only()
    assert found is not None
    assert found.shape == UNKNOWN


def test_an_empty_picture_holds_nothing() -> None:
    pixels = np.full((256, 256, 3), PALETTE["cyan"], dtype=np.uint8)
    reading = read_picture(pixels)
    assert reading.found == ()
    assert reading.only() is None
    assert reading.background == ("cyan",)


def test_noise_is_not_taken_for_a_scene() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    assert all(found.shape == UNKNOWN for found in read_picture(noise).found)


def test_soft_edges_do_not_change_the_reading() -> None:
    drawn = draw_scene(scene_of("star", "purple", "yellow", "large"), 512).filter(ImageFilter.GaussianBlur(3))
    found = read_picture(np.asarray(drawn)).only()
    assert found is not None
    assert (found.shape, found.colour, found.size) == ("star", "purple", "large")


def test_a_contour_is_hollow_and_a_filled_shape_is_not() -> None:
    filled = read_picture(np.asarray(draw_scene(scene_of("square"), 256))).only()
    contour = read_picture(np.asarray(draw_scene(scene_of("square"), 256, style="outline"))).only()
    assert filled is not None
    assert contour is not None
    assert filled.hollow < 0.02
    assert contour.hollow > 0.4


def test_sizes_do_not_depend_on_the_resolution() -> None:
    picture = draw_scene(scene_of("heart", size="large"), 1024)
    for pixels in (256, 300, 512, 1024):
        small = picture.resize((pixels, pixels), Image.Resampling.LANCZOS)
        found = read_picture(np.asarray(small)).only()
        assert found is not None
        assert (found.shape, found.size) == ("heart", "large")
