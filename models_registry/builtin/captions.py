"""Captions of scenes: several phrasings and word orders, some words dropped, so that free text degrades gently."""

import random
from dataclasses import dataclass, replace
from typing import Final

from models_registry.builtin.scenes import (
    PALETTE,
    POSITIONS,
    RADII,
    RELATIONS,
    SHAPES,
    Item,
    Omissions,
    Scene,
)

# The first of each list is the word that a plain prompt uses; it is drawn more often than the others together.
SYNONYMS: Final[dict[str, tuple[str, ...]]] = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "medium-sized"),
    "large": ("large", "big", "huge"),
    "circle": ("circle", "disc", "dot", "ball"),
    "square": ("square", "box"),
    "ring": ("ring", "donut"),
    "cross": ("cross", "plus"),
    "diamond": ("diamond", "rhombus"),
    "cyan": ("cyan", "turquoise"),
    "purple": ("purple", "violet"),
    "gray": ("gray", "grey"),
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
}
PLACES: Final[dict[str, tuple[str, ...]]] = {
    "centre": ("in the centre", "in the center", "in the middle", "centred", "centered"),
    "left": ("on the left", "at the left", "on the left side"),
    "right": ("on the right", "at the right", "on the right side"),
    "top": ("at the top", "on the top"),
    "bottom": ("at the bottom", "on the bottom"),
}
PREFIXES: Final = ("a picture of", "an image of", "a drawing of", "an illustration of", "a photo of", "draw")
# Words that mean nothing here: the model learns to look past them.
FILLERS: Final = (
    "high quality", "masterpiece", "highly detailed", "best quality", "simple", "flat design", "minimal", "digital art",
    "4k", "beautiful", "nice", "cute", "very pretty", "bright", "clean", "vector art", "icon", "shape", "for my website",
    "please", "in the style of a poster", "professional", "sharp", "studio light", "cartoon", "logo", "a cat", "a dog",
    "a house", "a tree", "the sea", "mountains", "a person", "smiling", "happy", "a photo of a city",
)  # fmt: skip
GRAMMAR_WORDS: Final = tuple(
    sorted(
        {
            word
            for phrase in (
                *SHAPES, *PALETTE, *RADII, *POSITIONS, *RELATIONS, *PREFIXES,
                *(word for words in SYNONYMS.values() for word in words),
                *(word for words in PLACES.values() for word in words),
                "a and an on in with against background backdrop colored coloured half shape the that is of next to",
            )
            for word in phrase.replace("-", " ").split()
        }
    )
)  # fmt: skip
NOTHING: Final = "nothing"
# What can be asked of a caption, and the possible answers.
QUESTIONS: Final[dict[str, tuple[str, ...]]] = {
    "shape 1": SHAPES,
    "shape 2": (NOTHING, *SHAPES),
    "colour 1": tuple(PALETTE),
    "colour 2": (NOTHING, *PALETTE),
    "size 1": tuple(RADII),
    "size 2": (NOTHING, *RADII),
    "ground 1": tuple(PALETTE),
    "ground 2": (NOTHING, *PALETTE),
    "split": ("plain", "columns", "rows"),
    "place": (*POSITIONS, *RELATIONS),
}
# How often a caption leaves a word out, and all of them: then fillers are all that it says.
DROP: Final[dict[str, float]] = {"size": 0.25, "place": 0.3, "ground": 0.25, "colour": 0.06, "shape": 0.04}
DROP_ALL: Final = 0.015
FILLED: Final = 0.08  # share of training captions that say something of no meaning besides


@dataclass(frozen=True)
class Words:
    """What a caption says of one item; empty where it says nothing."""

    size: str
    colour: str
    shape: str


def plain_caption(scene: Scene) -> str:
    """Return the caption that says everything in the most ordinary words."""
    subject = [_article(f"{item.size} {item.colour} {item.shape}") for item in scene.items]
    place = PLACES[scene.place][0] if len(scene.items) == 1 else ""
    middle = f" {scene.place} " if len(scene.items) > 1 else " "
    return f"{middle.join(subject)} {place} on {_ground(scene)}".replace("  ", " ")


def answers(scene: Scene) -> list[int]:
    """Return the right answer's index for every question."""
    given = {"split": scene.split, "place": scene.place}
    for number in (1, 2):
        item = scene.items[number - 1] if number <= len(scene.items) else None
        given[f"shape {number}"] = item.shape if item else NOTHING
        given[f"colour {number}"] = item.colour if item else NOTHING
        given[f"size {number}"] = item.size if item else NOTHING
        given[f"ground {number}"] = (
            scene.background[number - 1] if number <= len(scene.background) else NOTHING
        )
    return [choices.index(given[question]) for question, choices in QUESTIONS.items()]


def sample_omissions(scene: Scene, rng: random.Random) -> Omissions:
    """Decide what a training caption of `scene` leaves open; of each item at least a colour or a shape stays."""
    if rng.random() < DROP_ALL:
        return _omissions(scene, everything=True)
    colours = _dropped("colour", rng, scene)
    shapes = tuple(
        left and not other for left, other in zip(_dropped("shape", rng, scene), colours, strict=True)
    )
    place, ground = (rng.random() < DROP[kind] for kind in ("place", "ground"))
    return Omissions(_dropped("size", rng, scene), colours, shapes, place=place, ground=ground)


def _dropped(kind: str, rng: random.Random, scene: Scene) -> tuple[bool, ...]:
    return tuple(rng.random() < DROP[kind] for _ in scene.items)


def _omissions(scene: Scene, *, everything: bool) -> Omissions:
    """Return that a caption leaves everything open, or nothing."""
    each = (everything,) * len(scene.items)
    return Omissions(each, each, each, place=everything, ground=everything)


def sample_caption(
    scene: Scene, rng: random.Random, *, omitted: Omissions | None = None, fillers: float = 0.0
) -> str:
    """Return one of the many captions of `scene`, without what is `omitted`; a share of `fillers` says something else too."""
    omitted = omitted or _omissions(scene, everything=False)
    if omitted.ground and all((*omitted.colours, *omitted.shapes)):
        return rng.choice(FILLERS)
    words = [_words(item, rng, omitted, index) for index, item in enumerate(scene.items)]
    place = "" if omitted.place else scene.place
    ground = "" if omitted.ground else _ground(scene, rng)
    if len(words) == 1:
        text = _one(words[0], _pick(PLACES.get(place, ("",)), rng), ground, rng)
    else:
        text = _two(words, place, ground, rng)
    if rng.random() < 0.06:
        text = f"{rng.choice(PREFIXES)} {text}"
    if fillers and rng.random() < fillers:
        filler = rng.choice(FILLERS)
        text = f"{text}, {filler}" if rng.random() < 0.7 else f"{filler}, {text}"
    return text


def _pick(words: tuple[str, ...], rng: random.Random) -> str:
    """Return the ordinary word in 60 % of the cases, else one of the others."""
    return words[0] if len(words) == 1 or rng.random() < 0.6 else rng.choice(words[1:])


def _say(word: str, rng: random.Random) -> str:
    return _pick(SYNONYMS.get(word, (word,)), rng)


def _words(item: Item, rng: random.Random, omitted: Omissions, index: int) -> Words:
    """Choose the words for one item."""
    words = Words(_say(item.size, rng), _say(item.colour, rng), _say(item.shape, rng))
    if omitted.sizes[index]:
        words = replace(words, size="")
    if omitted.colours[index]:
        words = replace(words, colour="")
    return replace(words, shape="shape") if omitted.shapes[index] else words


def _article(text: str) -> str:
    return f"{'an' if text[:1] in 'aeiou' else 'a'} {text}"


def _ground(scene: Scene, rng: random.Random | None = None) -> str:
    """Return the words for the background, as they follow "on"."""
    colours = [_say(colour, rng) if rng else colour for colour in scene.background]
    if scene.split == "plain":
        noun = rng.choice(("background", "background", "background", "backdrop")) if rng else "background"
        return _article(f"{colours[0]} {noun}")
    sides = ("left", "right") if scene.split == "columns" else ("top", "bottom")
    if rng and rng.random() < 0.5:
        return f"a {colours[0]} {sides[0]} and {colours[1]} {sides[1]} background"
    preposition = "on" if scene.split == "columns" else "at"
    return (
        f"a background that is {colours[0]} {preposition} the {sides[0]} "
        f"and {colours[1]} {preposition} the {sides[1]}"
    )


def _noun(words: Words, rng: random.Random) -> str:
    """Return one item's words in one of their orders, with or without an article."""
    order = rng.random()
    if order < 0.75 or not (words.size and words.colour):
        text = " ".join(part for part in (words.size, words.colour, words.shape) if part)
    elif order < 0.88:
        text = f"{words.size} {words.shape} in {words.colour}"
    else:
        text = f"{words.colour} {words.size} {words.shape}"
    return _article(text) if rng.random() < 0.6 else text


def _bare(ground: str) -> str:
    """Return a background's words without their article."""
    return ground.removeprefix("a ").removeprefix("an ")


def _one(words: Words, place: str, ground: str, rng: random.Random) -> str:
    """Join one item, its place and its background."""
    noun = _noun(words, rng)
    form = rng.random()
    if form < 0.5:
        parts = [noun, place, f"{rng.choice(('on', 'on', 'on', 'against'))} {ground}" if ground else ""]
        return " ".join(part for part in parts if part)
    if form < 0.7:
        return ", ".join(part for part in (_bare(ground), f"{noun} {place}".strip()) if part)
    if form < 0.85:
        return ", ".join(part for part in (place, noun, _bare(ground)) if part)
    bits = [words.colour, words.shape, words.size, place, _bare(ground)]
    rng.shuffle(bits)
    return ", ".join(part for part in bits if part)


def _two(words: list[Words], relation: str, ground: str, rng: random.Random) -> str:
    """Join two items by their relation (or "and") and add the background before or behind them."""
    first, second = (_noun(item, rng) for item in words)
    link = _say(relation, rng) if relation else rng.choice(("and", "and", "with", "next to"))
    text = f"{first} {link} {second}"
    if not ground:
        return text
    form = rng.random()
    if form < 0.6:
        return f"{text} on {ground}"
    return f"{_bare(ground)}, {text}" if form < 0.85 else f"{text}, {_bare(ground)}"
