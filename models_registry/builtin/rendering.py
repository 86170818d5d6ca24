"""Draws many scenes at once with torch, on whatever device trains: from signed distances, where `drawing` fills polygons."""

from dataclasses import dataclass, fields
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from models_registry.builtin.drawing import CONTOURS, OUTLINE, RING_HOLE
from models_registry.builtin.scenes import SHAPES, Style

TEMPLATE_SIDE: Final = 320  # cells
TEMPLATE_REACH: Final = 1.3  # radii from a shape's middle to its template's edge
SPLITS: Final = ("plain", "columns", "rows")
MOST_ITEMS: Final = 2


@dataclass(frozen=True)
class SceneBatch:
    """Scenes as tensors. A shape that is not there has radius 0."""

    grounds: torch.Tensor  # scenes x 2 x 3 channels from -1 to 1; the same colour twice on a plain background
    splits: torch.Tensor  # scenes: index in SPLITS
    shapes: torch.Tensor  # scenes x 2: index of `distance_templates`
    colours: torch.Tensor  # scenes x 2 x 3
    boxes: (
        torch.Tensor
    )  # scenes x 2 x (x, y, radius) in shares of the picture's sides and of the smaller side

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self.splits)

    def __getitem__(self, picks: torch.Tensor | slice) -> "SceneBatch":
        """Return some of the scenes."""
        return SceneBatch(*(getattr(self, field.name)[picks] for field in fields(self)))

    def to(self, device: str | torch.device) -> "SceneBatch":
        """Return the scenes on a device."""
        return SceneBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


def template_index(shape: str, style: Style) -> int:
    """Return where `distance_templates` has a shape; a pastel one differs from a filled one in colour alone."""
    return SHAPES.index(shape) + (len(SHAPES) if style == "outline" else 0)


def _polygon_distance(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the distance of every cell's middle from a polygon's outline, in radii, negative inside."""
    middles = ((np.arange(TEMPLATE_SIDE) + 0.5) / TEMPLATE_SIDE * 2 - 1) * TEMPLATE_REACH
    x, y = np.meshgrid(middles, middles)
    nearest = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, dtype=bool)
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
        across, down = x2 - x1, y2 - y1
        length = across**2 + down**2
        if length < 1e-18:
            continue
        along = (((x - x1) * across + (y - y1) * down) / length).clip(0, 1)
        np.minimum(nearest, np.hypot(x - x1 - along * across, y - y1 - along * down), out=nearest)
        if y1 != y2:
            inside ^= ((y1 > y) != (y2 > y)) & (x < (y - y1) / down * across + x1)
    return np.where(inside, -nearest, nearest)


@cache
def distance_templates() -> torch.Tensor:
    """Return what every shape's distances are, filled and then as a contour (16 x 1 x side x side, in radii, negative inside)."""
    filled, contours = [], []
    for shape in SHAPES:
        points = np.array(CONTOURS[shape], dtype=np.float64)
        distance = _polygon_distance(points)
        if shape == "ring":
            hole = _polygon_distance(points * RING_HOLE)
            filled.append(np.maximum(distance, -hole))
            contours.append(np.minimum(np.abs(distance), np.abs(hole)) - OUTLINE / 2)
        else:
            filled.append(distance)
            contours.append(np.abs(distance) - OUTLINE / 2)
    return torch.from_numpy(np.stack(filled + contours)).float()[:, None]


def render(scenes: SceneBatch, height: int, width: int) -> torch.Tensor:
    """Return the scenes' pictures (scenes x 3 x height x width, from -1 to 1), with anti-aliased edges."""
    device = scenes.splits.device
    templates = distance_templates().to(device)
    xs = ((torch.arange(width, device=device) + 0.5) / width).view(1, 1, width)
    ys = ((torch.arange(height, device=device) + 0.5) / height).view(1, height, 1)
    splits = scenes.splits.view(-1, 1, 1)
    second = ((splits == 1) & (xs >= 0.5)) | ((splits == 2) & (ys >= 0.5))
    first, other = (scenes.grounds[:, index, :, None, None] for index in range(2))
    picture = torch.where(second[:, None], other, first)
    for index in range(MOST_ITEMS):
        x, y, radius = (scenes.boxes[:, index, part].view(-1, 1, 1) for part in range(3))
        reach = radius.clamp(min=1e-3) * min(height, width)  # pixels
        across, down = (xs - x) * width / reach, (ys - y) * height / reach
        grid = torch.stack(torch.broadcast_tensors(across, down), dim=-1) / TEMPLATE_REACH
        distance = functional.grid_sample(
            templates[scenes.shapes[:, index]], grid, padding_mode="border", align_corners=False
        )
        cover = (0.5 - distance * reach[:, None]).clamp(0, 1) * (radius > 0)[:, None]
        picture = torch.lerp(picture, scenes.colours[:, index, :, None, None].expand_as(picture), cover)
    return picture
