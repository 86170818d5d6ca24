"""How well a generated picture is drawn, beside what it shows: overlap with ideal shapes, roundness, width of edges."""

from typing import Final

import numpy as np
import numpy.typing as npt

from models_registry.builtin.fitting import Mask, fit_scene, ideal_mask, item_mask, named_pixels, overlap
from models_registry.builtin.scenes import PALETTE, Scene

Bytes = npt.NDArray[np.uint8]

RAYS: Final = 180
BETWEEN: Final = (0.1, 0.9)  # where a colour lies between background and shape to count as neither


def overlaps(scene: Scene, pixels: Bytes) -> list[float]:
    """Return each item's intersection over union with its ideal shape, put where the item is; 0 for one not drawn."""
    fitted = fit_scene(scene, pixels)
    if fitted is None:
        return [0.0] * len(scene.items)
    return [
        overlap(item_mask(scene, index, pixels), ideal_mask(scene, item, len(pixels)))
        for index, item in enumerate(fitted.items)
    ]


def roundness(mask: Mask) -> float:
    """Return the mean deviation of an outline's distance from its centroid, as a share of the mean distance.

    The outline is where each of `RAYS` rays from the centroid leaves the mask for the last time.
    """
    rows, columns = np.nonzero(mask)
    middle_y, middle_x = rows.mean(), columns.mean()
    distances = np.arange(0, np.hypot(*mask.shape), 0.25)
    angles = np.arange(RAYS) * 2 * np.pi / RAYS
    ys = np.rint(middle_y + np.sin(angles)[:, None] * distances).astype(int)
    xs = np.rint(middle_x + np.cos(angles)[:, None] * distances).astype(int)
    inside = (ys >= 0) & (xs >= 0) & (ys < mask.shape[0]) & (xs < mask.shape[1])
    covered = inside & mask[ys.clip(0, mask.shape[0] - 1), xs.clip(0, mask.shape[1] - 1)]
    radii = np.where(covered, distances, 0).max(axis=1)
    return float(np.abs(radii - radii.mean()).mean() / radii.mean())


def edge_width(scene: Scene, pixels: Bytes) -> float:
    """Return the mean width of the edge of a one-item scene in pixels: those of neither colour, by the outline's length."""
    names = [scene.background[0], scene.items[0].colour]
    ground, colour = (np.array(PALETTE[name], dtype=np.float64) for name in names)
    way = colour - ground
    between = ((pixels - ground) @ way) / (way @ way)
    soft = (between > BETWEEN[0]) & (between < BETWEEN[1])
    mask = named_pixels(pixels, names) == 1
    steps = (mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum()
    # a straight outline at a random angle crosses 4/pi pixel sides per pixel of its length
    return float(soft.sum() / max(1.0, steps * np.pi / 4))
