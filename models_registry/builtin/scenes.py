"""The pictures' grammar: scenes of one or two shapes, how they are sampled, and which are held out from training."""

import hashlib
import random
from dataclasses import dataclass, replace
from typing import Final, Literal

Split = Literal["plain", "columns", "rows"]
Style = Literal["filled", "outline", "pastel"]

SHAPES: Final = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "diamond")
PALETTE: Final[dict[str, tuple[int, int, int]]] = {
    "red": (222, 40, 40),
    "orange": (247, 140, 24),
    "yellow": (252, 222, 48),
    "green": (40, 160, 70),
    "cyan": (60, 205, 215),
    "blue": (40, 80, 220),
    "purple": (130, 50, 175),
    "pink": (250, 150, 195),
    "brown": (120, 72, 36),
    "black": (22, 22, 22),
    "gray": (128, 128, 128),
    "white": (248, 248, 248),
}
# Half of the larger side of a shape's bounding box, as a share of the picture's side.
RADII: Final[dict[str, tuple[float, float]]] = {
    "small": (0.100, 0.120),
    "medium": (0.160, 0.185),
    "large": (0.245, 0.280),
}
POSITIONS: Final[dict[str, tuple[int, int]]] = {
    "centre": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
}
RELATIONS: Final = ("left of", "right of", "above", "below")
HELD_OUT_PERCENT: Final = 10


@dataclass(frozen=True)
class Item:
    """One shape: `x`, `y` (centre of the bounding box) and `radius` are shares of the picture's side."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """What a picture shows.

    `background` holds one colour (split "plain") or two: left and right ("columns") or top and bottom ("rows").
    `place` is the position of a single item, or the relation of the first item to the second.
    """

    items: tuple[Item, ...]
    background: tuple[str, ...]
    split: Split
    place: str


# What a picture shows where its caption leaves something open, the first choice that differs from all else in it.
OPEN_COLOURS: Final = ("blue", "red", "yellow", "green")
OPEN_GROUNDS: Final = ("white", "black", "gray")
OPEN_SHAPES: Final = ("circle", "square")
OPEN_SIZES: Final[dict[int, str]] = {1: "large", 2: "medium"}  # by the number of shapes
OPEN_PLACES: Final[dict[int, str]] = {1: "centre", 2: "left of"}


@dataclass(frozen=True)
class Omissions:
    """What a caption leaves open: of each item its size, colour and shape; its place, or their relation; the background."""

    sizes: tuple[bool, ...]
    colours: tuple[bool, ...]
    shapes: tuple[bool, ...]
    place: bool
    ground: bool


def is_held_out(scene: Scene) -> bool:
    """Tell whether a scene's combination is kept out of training; the same answer on every machine.

    Held out are a tenth of all (shape, colour, background colour) triples, and of two-shape scenes also a tenth of
    all unordered pairs of (shape, colour), whatever the sizes, the places and the wording.
    """
    keys = [f"{item.shape} {item.colour} on {ground}" for item in scene.items for ground in scene.background]
    if len(scene.items) > 1:
        keys.append(" with ".join(sorted(f"{item.shape} {item.colour}" for item in scene.items)))
    return any(_percent(key) < HELD_OUT_PERCENT for key in keys)


def _percent(key: str) -> int:
    """Return a number from 0 to 99 that depends on `key` alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100


def sample_scene(rng: random.Random, *, held_out: bool, pairs: float = 0.4, splits: float = 0.15) -> Scene:
    """Draw a scene that is, or is not, held out; `pairs` and `splits` are the shares of two-shape scenes and
    of two-colour backgrounds."""
    while True:
        scene = _any_scene(rng, pair=rng.random() < pairs, split=rng.random() < splits)
        if is_held_out(scene) == held_out:
            return scene


def _any_scene(rng: random.Random, *, pair: bool, split: bool) -> Scene:
    """Draw a scene without looking at the split into training and held-out ones."""
    colours = rng.sample(sorted(PALETTE), 4)
    background = tuple(colours[:2]) if split else (colours[0],)
    kind: Split = rng.choice(("columns", "rows")) if split else "plain"
    if not pair:
        place = rng.choice(sorted(POSITIONS))
        item = _single(rng, colours[2], place)
        return Scene((item,), background, kind, place)
    relation = rng.choice(RELATIONS)
    second = colours[2] if rng.random() < 0.08 else colours[3]
    return Scene(_pair(rng, (colours[2], second), relation), background, kind, relation)


def _single(rng: random.Random, colour: str, place: str, *, size: str = "") -> Item:
    """Draw one item at a named position: large ones stay inside the picture; without `size`, of any size."""
    size = size or rng.choice(sorted(RADII))
    radius = rng.uniform(*RADII[size])
    offset = min(0.29, 0.47 - radius)
    across, down = POSITIONS[place]
    x = 0.5 + across * offset + rng.uniform(-0.025, 0.025)
    y = 0.5 + down * offset + rng.uniform(-0.025, 0.025)
    return Item(rng.choice(SHAPES), colour, size, x, y, radius)


def _pair(
    rng: random.Random, colours: tuple[str, str], relation: str, *, sizes: list[str] | None = None
) -> tuple[Item, Item]:
    """Draw two items that do not touch, the first one in `relation` to the second; without `sizes`, of any sizes."""
    sizes = sizes or rng.choices(sorted(RADII), k=2)
    while sizes == ["large", "large"]:  # too wide for one picture
        sizes = rng.choices(sorted(RADII), k=2)
    radii = [rng.uniform(*RADII[size]) for size in sizes]
    gap = (1 - 2 * sum(radii)) / 3
    first = gap + radii[0] + rng.uniform(-0.1, 0.1) * gap
    second = 1 - gap - radii[1] + rng.uniform(-0.1, 0.1) * gap
    if relation in ("right of", "below"):
        first, second = 1 - first, 1 - second
    items = []
    for colour, size, radius, along in zip(colours, sizes, radii, (first, second), strict=True):
        across = 0.5 + rng.uniform(-0.03, 0.03)
        x, y = (along, across) if relation in ("left of", "right of") else (across, along)
        items.append(Item(rng.choice(SHAPES), colour, size, x, y, radius))
    return items[0], items[1]


def understood(scene: Scene, omitted: Omissions, rng: random.Random) -> Scene:
    """Return the scene that a caption of `scene` asks for when what it leaves open is decided by convention.

    A model that has learned from any background under "a red circle" draws a mixture of them; people expect a large one in
    the middle of a white page.
    """
    count = len(scene.items)
    taken = {item.colour for item, left in zip(scene.items, omitted.colours, strict=True) if not left}
    background, split = scene.background, scene.split
    if omitted.ground:
        background, split = (next(name for name in OPEN_GROUNDS if name not in taken),), "plain"
    taken |= set(background)
    colours, shapes = [], []
    for index, item in enumerate(scene.items):
        colour = item.colour
        if omitted.colours[index]:
            colour = next(name for name in OPEN_COLOURS if name not in taken)
            taken.add(colour)
        colours.append(colour)
        shapes.append(OPEN_SHAPES[index] if omitted.shapes[index] else item.shape)
    sizes = [
        OPEN_SIZES[count] if left else item.size
        for item, left in zip(scene.items, omitted.sizes, strict=True)
    ]
    place = OPEN_PLACES[count] if omitted.place else scene.place
    items = (
        (_single(rng, colours[0], place, size=sizes[0]),)
        if count == 1
        else _pair(rng, (colours[0], colours[1]), place, sizes=sizes)
    )
    named = tuple(replace(item, shape=shape) for item, shape in zip(items, shapes, strict=True))
    return Scene(named, background, split, place)
