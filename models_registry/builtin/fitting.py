"""Finds the ideal shapes behind a generated picture: what its author meant, moved and scaled to where it drew."""

from dataclasses import replace
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from models_registry.builtin.drawing import draw_scene
from models_registry.builtin.scenes import PALETTE, Item, Scene

Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.float64]

MOMENTS_SIDE: Final = 256  # pixels of the picture that a shape's moments are taken from
REACH: Final = 1.8  # of a shape from its middle, in radii: what lies further off is no part of it
SIZES: Final = (0.6, 1.5)  # smallest and largest that counts as drawn, by what was asked for
LEAST_OVERLAP: Final = 0.55  # intersection over union with the ideal shape below which nothing fits
FEWEST_PIXELS: Final = 30


@cache
def ideal_moments(shape: str) -> tuple[float, float, float]:
    """Return a shape's area at radius 1 and its centroid's offset from its bounding box's middle, in radii."""
    item = Item(shape, "black", "large", 0.5, 0.5, 0.4)
    drawn = draw_scene(Scene((item,), ("white",), "plain", "centre"), MOMENTS_SIDE)
    inside = named_pixels(np.asarray(drawn), ["white", "black"]) == 1
    xs, ys = pixel_centres(MOMENTS_SIDE)
    return (
        float(inside.mean() / item.radius**2),
        float((xs[inside].mean() - item.x) / item.radius),
        float((ys[inside].mean() - item.y) / item.radius),
    )


def pixel_centres(side: int) -> tuple[Pixels, Pixels]:
    """Return x and y of every pixel's middle as shares of a square picture's side."""
    centres = (np.arange(side) + 0.5) / side
    xs, ys = np.meshgrid(centres, centres)
    return xs, ys


def named_pixels(pixels: npt.NDArray[np.uint8] | Pixels, names: list[str]) -> npt.NDArray[np.int64]:
    """Return, for every pixel, the index of the nearest of the named colours."""
    values = np.array([PALETTE[name] for name in names], dtype=np.float64)
    return np.asarray(((pixels[:, :, None, :] - values) ** 2).sum(axis=3).argmin(axis=2))


def overlap(one: Mask, other: Mask) -> float:
    """Return the intersection over union of two masks."""
    return float((one & other).sum() / max(1, (one | other).sum()))


def fit_scene(scene: Scene, pixels: npt.NDArray[np.uint8]) -> Scene | None:
    """Return `scene` with every item where a square picture shows it; None where it shows something else.

    A shape's centroid and area say where its ideal is: a wobble of the outline changes neither much.
    """
    items = []
    for index in range(len(scene.items)):
        item = _fit_item(scene, index, pixels)
        if item is None:
            return None
        items.append(item)
    return replace(scene, items=tuple(items))


def item_mask(scene: Scene, index: int, pixels: npt.NDArray[np.uint8]) -> Mask:
    """Return the pixels of one of the scene's items: those of its colour, without stray ones far from their middle."""
    item = scene.items[index]
    names = list(dict.fromkeys([*scene.background, *(other.colour for other in scene.items)]))
    xs, ys = pixel_centres(len(pixels))
    mask: Mask = named_pixels(pixels, names) == names.index(item.colour)
    for other in scene.items:
        if other is not item and other.colour == item.colour:
            nearer = np.hypot(xs - item.x, ys - item.y) - item.radius
            mask &= nearer < np.hypot(xs - other.x, ys - other.y) - other.radius
    for _ in range(2):
        if mask.any():
            middle = np.median(xs[mask]), np.median(ys[mask])
            away = np.maximum(np.abs(xs - middle[0]), np.abs(ys - middle[1]))
            mask &= away < REACH * item.radius
    return mask


def _fit_item(scene: Scene, index: int, pixels: npt.NDArray[np.uint8]) -> Item | None:
    item, mask = scene.items[index], item_mask(scene, index, pixels)
    if mask.sum() < FEWEST_PIXELS:
        return None
    xs, ys = pixel_centres(len(pixels))
    area, right, down = ideal_moments(item.shape)
    radius = float(np.sqrt(mask.mean() / area))
    x, y = xs[mask].mean() - right * radius, ys[mask].mean() - down * radius
    fitted = replace(item, x=float(x), y=float(y), radius=radius)
    if not SIZES[0] < radius / item.radius < SIZES[1]:
        return None
    return fitted if overlap(mask, ideal_mask(scene, fitted, len(pixels))) >= LEAST_OVERLAP else None


def ideal_mask(scene: Scene, item: Item, side: int) -> Mask:
    """Return the pixels that an item covers when it is drawn alone."""
    # any background but the item's own colour will do
    alone = Scene((item,), scene.background[:1], "plain", scene.place)
    names = [scene.background[0], item.colour]
    return np.asarray(named_pixels(np.asarray(draw_scene(alone, side)), names) == 1)
