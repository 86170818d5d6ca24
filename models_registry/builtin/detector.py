"""Reads a picture and says which shapes, colours, sizes and positions are in it. Plain NumPy geometry.

It knows the palette's colour values and the names of sizes and places, and shares no drawing code with `drawing`: shapes
are recognised by comparing a segmented region with regions that are defined here by inequalities.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models_registry.builtin.scenes import PALETTE, Split

Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]
Names = npt.NDArray[np.int64]

COLOURS: Final = tuple(PALETTE)
GRID: Final = 128  # pictures are read at this side
SMALLEST_AREA: Final = 0.004  # share of the picture below which a region is a speck
LEAST_OVERLAP: Final = 0.72  # intersection over union below which a region has no known shape
TEMPLATE: Final = 64
SIZE_LIMITS: Final = (0.140, 0.214)  # half extents between small and medium, medium and large
CENTRE_REACH: Final = 0.1  # of a centroid from the picture's middle
UNKNOWN: Final = "unknown"


@dataclass(frozen=True)
class Found:
    """One region: `x`, `y` are the middle of its bounding box and `radius` half its larger side, as shares."""

    shape: str
    colour: str
    size: str
    position: str
    x: float
    y: float
    radius: float
    area: float
    overlap: float
    hollow: float  # share of the filled contour that is hole


@dataclass(frozen=True)
class Reading:
    """What a picture shows: regions from large to small, and the background's one or two colours."""

    found: tuple[Found, ...]
    background: tuple[str, ...]
    split: Split

    def only(self) -> Found | None:
        """Return the one region of the picture, or None when there are none or several."""
        return self.found[0] if len(self.found) == 1 else None


def read_picture(pixels: Pixels) -> Reading:
    """Read an RGB picture (height x width x 3, uint8, any size)."""
    small = _reduced(pixels)
    names = _nearest_colours(small)
    background, split, ground = _background(names)
    different = names != ground
    regions = [region for region in _components(different) if region.mean() >= SMALLEST_AREA]
    found = [_describe(region, names, small) for region in regions]
    return Reading(tuple(sorted(found, key=lambda item: -item.area)), background, split)


def _reduced(pixels: Pixels) -> npt.NDArray[np.float64]:
    """Return the picture at `GRID` x `GRID` by averaging blocks, or by picking pixels where sides do not divide."""
    height, width = pixels.shape[:2]
    if height % GRID == 0 and width % GRID == 0:
        blocks = pixels.reshape(GRID, height // GRID, GRID, width // GRID, 3).astype(np.float64)
        return np.asarray(blocks.mean(axis=(1, 3)))
    rows = ((np.arange(GRID) + 0.5) * height / GRID).astype(int)
    columns = ((np.arange(GRID) + 0.5) * width / GRID).astype(int)
    picked: npt.NDArray[np.float64] = pixels[rows][:, columns].astype(np.float64)
    return picked


def _nearest_colours(pixels: npt.NDArray[np.float64]) -> Names:
    """Return the index of the palette's nearest colour for every pixel."""
    values = np.array([PALETTE[name] for name in COLOURS], dtype=np.float64)
    distances = ((pixels[:, :, None, :] - values) ** 2).sum(axis=3)
    return np.asarray(distances.argmin(axis=2))


def _commonest(names: Names) -> int:
    return int(np.bincount(names.ravel(), minlength=len(COLOURS)).argmax())


def _background(names: Names) -> tuple[tuple[str, ...], Split, Names]:
    """Return the background's colours, its split, and the picture of the bare background.

    The four corners decide: objects stay away from them.
    """
    reach = GRID // 10
    corners = {
        (row, column): _commonest(names[rows, columns])
        for row, rows in enumerate((slice(0, reach), slice(-reach, None)))
        for column, columns in enumerate((slice(0, reach), slice(-reach, None)))
    }
    half = GRID // 2
    ground = np.full_like(names, corners[0, 0])
    if corners[0, 0] == corners[1, 0] != corners[0, 1] == corners[1, 1]:
        ground[:, half:] = corners[0, 1]
        return (COLOURS[corners[0, 0]], COLOURS[corners[0, 1]]), "columns", ground
    if corners[0, 0] == corners[0, 1] != corners[1, 0] == corners[1, 1]:
        ground[half:] = corners[1, 0]
        return (COLOURS[corners[0, 0]], COLOURS[corners[1, 0]]), "rows", ground
    ground[:] = _commonest(np.array(list(corners.values())))
    return (COLOURS[int(ground[0, 0])],), "plain", ground


def _components(mask: Mask) -> list[Mask]:
    """Return the 4-connected regions of a mask, each as a mask."""
    labels = np.zeros(mask.shape, dtype=np.int64)
    height, width = mask.shape
    regions: list[int] = []
    for start in zip(*np.nonzero(mask), strict=True):
        if labels[start]:
            continue
        label = len(regions) + 1
        labels[start] = label
        stack = [(int(start[0]), int(start[1]))]
        while stack:
            row, column = stack.pop()
            for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                inside = 0 <= near[0] < height and 0 <= near[1] < width
                if inside and mask[near] and not labels[near]:
                    labels[near] = label
                    stack.append(near)
        regions.append(label)
    return [labels == label for label in regions]


def _eroded(mask: Mask) -> Mask:
    """Return the pixels whose four neighbours belong to the mask too."""
    padded = np.pad(mask, 1)
    return np.asarray(mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:])


def _describe(region: Mask, names: Names, pixels: npt.NDArray[np.float64]) -> Found:
    """Say what one region is."""
    rows, columns = np.nonzero(region.any(axis=1))[0], np.nonzero(region.any(axis=0))[0]
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    x, y = (left + right) / 2 / GRID, (top + bottom) / 2 / GRID
    radius = max(bottom - top, right - left) / 2 / GRID
    core = _eroded(region)  # without the anti-aliased rim
    inside = core if core.any() else region
    shape, overlap = _shape(region[top:bottom, left:right])
    filled = ~_outside(region[top:bottom, left:right])
    return Found(
        shape=shape,
        colour=COLOURS[_commonest(names[inside])],
        size=("small", "medium", "large")[int(np.searchsorted(SIZE_LIMITS, radius))],
        position=_position(x, y),
        x=float(x),
        y=float(y),
        radius=float(radius),
        area=float(region.mean()),
        overlap=overlap,
        hollow=float(1 - region.sum() / filled.sum()),
    )


def _position(x: float, y: float) -> str:
    """Name a place by its distance from the picture's middle."""
    across, down = x - 0.5, y - 0.5
    if max(abs(across), abs(down)) <= CENTRE_REACH:
        return "centre"
    if min(abs(across), abs(down)) > CENTRE_REACH:
        return "corner"
    if abs(across) > abs(down):
        return "left" if across < 0 else "right"
    return "top" if down < 0 else "bottom"


def _outside(mask: Mask) -> Mask:
    """Return the pixels that the mask does not enclose."""
    padded = np.pad(~mask, 1, constant_values=True)
    return next(region for region in _components(padded) if region[0, 0])[1:-1, 1:-1]


def _grid(width: int, height: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return x and y of pixel centres for a box whose larger side runs from -1 to 1."""
    half = max(width, height) / 2
    x = (np.arange(width) + 0.5 - width / 2) / half
    y = (np.arange(height) + 0.5 - height / 2) / half
    return np.meshgrid(x, y)


def _star(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Mask:
    """Return a five-pointed star: inside at least four of the pentagram's five edges, fattened a little."""
    # the bounding box of a star of radius r is 1.902 r wide and 1.809 r high, its middle 0.0955 r above the centre
    radius = 2 / 1.902
    across, down = x / radius, (y - 0.0955 * radius) / radius
    angle = np.arctan2(across, -down)
    distance = np.hypot(across, down)
    turn = np.abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)  # from the nearest tip, 0..36 degrees
    # the edge from a tip (distance 1, turn 0) to a waist (distance 0.45, turn 36 degrees)
    waist_x, waist_y = 0.45 * np.cos(np.pi / 5), 0.45 * np.sin(np.pi / 5)
    along, beside = distance * np.cos(turn), distance * np.sin(turn)
    return np.asarray((1 - along) * waist_y - beside * (1 - waist_x) >= 0)


def _heart(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Mask:
    """Return two lobes on a tip: (u^2 + v^2 - 1)^3 <= u^2 v^3, whose box is 2.28 wide and 2.24 high."""
    u, v = x * 1.14, -y * 1.14 + 0.12
    return np.asarray((u**2 + v**2 - 1) ** 3 <= u**2 * v**3)


def _regions(width: int, height: int) -> dict[str, Mask]:
    """Return every known shape in a box of this many pixels."""
    x, y = _grid(width, height)
    square, distance = np.maximum(np.abs(x), np.abs(y)), np.hypot(x, y)
    tall = height / max(width, height)
    return {
        "circle": distance <= 1,
        "square": square <= 1,
        "triangle": (y <= tall) & (np.abs(x) <= (y + tall) / (2 * tall)),
        "star": _star(x, y),
        "ring": (distance <= 1) & (distance >= 0.55),
        "cross": (square <= 1) & (np.minimum(np.abs(x), np.abs(y)) <= 0.36),
        "heart": _heart(x, y),
        "diamond": np.abs(x) / (width / max(width, height)) + np.abs(y) / tall <= 1,
    }


def _shape(box: Mask) -> tuple[str, float]:
    """Return the known shape that covers a region best, and their intersection over union."""
    height, width = box.shape
    scores = {
        name: float((box & known).sum() / max(1, (box | known).sum()))
        for name, known in _regions(width, height).items()
    }
    best = max(scores, key=lambda name: scores[name])
    if scores[best] < LEAST_OVERLAP or not 0.6 < width / height < 1.6:
        return UNKNOWN, scores[best]
    return best, scores[best]
