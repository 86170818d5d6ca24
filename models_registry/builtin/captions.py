"""Captions of scenes: several phrasings and word orders, some words dropped, so that free text degrades gently."""

import random
from dataclasses import dataclass, replace
from typing import Final

from models_registry.builtin.scenes import PALETTE, POSITIONS, RADII, RELATIONS, SHAPES, Item, Scene

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
# How often a caption leaves a word out.
DROP: Final[dict[str, float]] = {"size": 0.12, "place": 0.12, "ground": 0.08, "colour": 0.05, "shape": 0.03}


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


def sample_caption(scene: Scene, rng: random.Random, *, drop: bool = True) -> str:
    """Return one of the many captions of `scene`; with `drop` false it leaves nothing out and adds no filler."""
    words = [_words(item, rng, drop=drop) for item in scene.items]
    place = "" if _dropped("place", rng, drop=drop) else scene.place
    ground = "" if _dropped("ground", rng, drop=drop) else _ground(scene, rng)
    if len(words) == 1:
        text = _one(words[0], _pick(PLACES.get(place, ("",)), rng), ground, rng)
    else:
        text = _two(words, place, ground, rng)
    if rng.random() < 0.06:
        text = f"{rng.choice(PREFIXES)} {text}"
    if drop and rng.random() < 0.08:
        filler = rng.choice(FILLERS)
        text = f"{text}, {filler}" if rng.random() < 0.7 else f"{filler}, {text}"
    return text


def _dropped(kind: str, rng: random.Random, *, drop: bool) -> bool:
    return drop and rng.random() < DROP[kind]


def _pick(words: tuple[str, ...], rng: random.Random) -> str:
    """Return the ordinary word in 60 % of the cases, else one of the others."""
    return words[0] if len(words) == 1 or rng.random() < 0.6 else rng.choice(words[1:])


def _say(word: str, rng: random.Random) -> str:
    return _pick(SYNONYMS.get(word, (word,)), rng)


def _words(item: Item, rng: random.Random, *, drop: bool) -> Words:
    """Choose the words for one item; at least a colour or a shape stays."""
    words = Words(_say(item.size, rng), _say(item.colour, rng), _say(item.shape, rng))
    if _dropped("size", rng, drop=drop):
        words = replace(words, size="")
    if _dropped("colour", rng, drop=drop):
        return replace(words, colour="")
    return replace(words, shape="shape") if _dropped("shape", rng, drop=drop) else words


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
