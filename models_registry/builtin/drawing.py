"""Draws scenes with Pillow: every edge is anti-aliased by drawing larger and reducing."""

import math
import random
from typing import Final

from PIL import Image, ImageDraw

from models_registry.builtin.scenes import PALETTE, Item, Scene, Style

Colour = tuple[int, int, int]
Point = tuple[float, float]

SUPERSAMPLING: Final = 4
RING_HOLE: Final = 0.55  # inner radius as a share of the outer one
CROSS_ARM: Final = 0.36  # half an arm's width as a share of the radius
STAR_WAIST: Final = 0.45  # inner radius as a share of the outer one
OUTLINE: Final = 0.2  # width of a contour as a share of the radius
PASTEL: Final = 0.6  # share of white in a pastel colour


def star_points() -> list[Point]:
    """Return the ten corners of a five-pointed star, upright, inside the unit circle."""
    radii = (1.0, STAR_WAIST)
    return [
        (radii[k % 2] * math.sin(k * math.pi / 5), -radii[k % 2] * math.cos(k * math.pi / 5))
        for k in range(10)
    ]


def heart_points(count: int = 96) -> list[Point]:
    """Return points on the heart curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t."""
    turns = [2 * math.pi * k / count for k in range(count)]
    return [
        (
            16 * math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)),
        )
        for t in turns
    ]


def circle_points(count: int = 96) -> list[Point]:
    """Return points on the unit circle."""
    return [(math.cos(2 * math.pi * k / count), math.sin(2 * math.pi * k / count)) for k in range(count)]


def _cross_points() -> list[Point]:
    quarter = [(CROSS_ARM, -1.0), (CROSS_ARM, -CROSS_ARM), (1.0, -CROSS_ARM)]
    points: list[Point] = []
    for _ in range(4):
        points += quarter
        quarter = [(-y, x) for x, y in quarter]
    return points


def _boxed(points: list[Point]) -> list[Point]:
    """Move and scale points so that their bounding box is centred and its larger side is 2."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    middle_x, middle_y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    half = max(max(xs) - min(xs), max(ys) - min(ys)) / 2
    return [((x - middle_x) / half, (y - middle_y) / half) for x, y in points]


CONTOURS: Final[dict[str, list[Point]]] = {
    "circle": _boxed(circle_points()),
    "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "triangle": _boxed([(0, -1), (math.sqrt(3) / 2, 0.5), (-math.sqrt(3) / 2, 0.5)]),
    "star": _boxed(star_points()),
    "ring": _boxed(circle_points()),
    "cross": _boxed(_cross_points()),
    "heart": _boxed(heart_points()),
    "diamond": _boxed([(0, -1), (0.8, 0), (0, 1), (-0.8, 0)]),
}


def draw_scene(
    scene: Scene, size: int, *, style: Style = "filled", rng: random.Random | None = None
) -> Image.Image:
    """Return the RGB picture of `scene`, `size` pixels square; `rng` varies the colours a little."""
    side = size * SUPERSAMPLING
    grounds = [style_colour(name, style, rng) for name in scene.background]
    picture = Image.new("RGB", (side, side), grounds[0])
    pen = ImageDraw.Draw(picture)
    if scene.split == "columns":
        pen.rectangle((side // 2, 0, side, side), fill=grounds[1])
    elif scene.split == "rows":
        pen.rectangle((0, side // 2, side, side), fill=grounds[1])
    backdrop = (
        picture.copy() if style == "outline" or any(item.shape == "ring" for item in scene.items) else None
    )
    for item in scene.items:
        _draw_item(picture, backdrop, item, style_colour(item.colour, style, rng), style)
    return picture.reduce(SUPERSAMPLING)


def style_colour(name: str, style: Style, rng: random.Random | None) -> Colour:
    """Return the RGB values of a colour in a style, with a small random deviation."""
    channels = []
    for value in PALETTE[name]:
        base = value + (255 - value) * PASTEL if style == "pastel" else float(value)
        base += rng.uniform(-7, 7) if rng else 0
        channels.append(round(min(255, max(0, base))))
    return channels[0], channels[1], channels[2]


def _draw_item(
    picture: Image.Image, backdrop: Image.Image | None, item: Item, colour: Colour, style: Style
) -> None:
    """Fill one shape; rings and contours get the backdrop back in their middle."""
    side = picture.width
    contour = [
        ((item.x + x * item.radius) * side, (item.y + y * item.radius) * side)
        for x, y in CONTOURS[item.shape]
    ]
    pen = ImageDraw.Draw(picture)
    if style == "outline":
        # rounded joints: a line and a dot at every corner
        width = OUTLINE * item.radius * side
        pen.line([*contour, contour[0], contour[1]], fill=colour, width=round(width), joint="curve")
        if item.shape != "ring":
            return
        contour = [
            ((item.x + x * s), (item.y + y * s))
            for s in (item.radius * RING_HOLE,)
            for x, y in CONTOURS["ring"]
        ]
        contour = [(x * side, y * side) for x, y in contour]
        pen.line([*contour, contour[0], contour[1]], fill=colour, width=round(width), joint="curve")
        return
    pen.polygon(contour, fill=colour)
    if item.shape == "ring" and backdrop is not None:
        hole = Image.new("L", picture.size, 0)
        reach = item.radius * RING_HOLE
        box = [
            (item.x - reach) * side,
            (item.y - reach) * side,
            (item.x + reach) * side,
            (item.y + reach) * side,
        ]
        ImageDraw.Draw(hole).ellipse(box, fill=255)
        picture.paste(backdrop, mask=hole)
