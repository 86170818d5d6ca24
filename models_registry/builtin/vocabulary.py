"""The built-in model's tokenizer: a small byte-level BPE in CLIP's format, learned from a short word list."""

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Final

from models_registry.builtin.captions import FILLERS, GRAMMAR_WORDS

VOCABULARY_SIZE: Final = 1000
MAX_TOKENS: Final = 32
BOS: Final = "<|startoftext|>"
EOS: Final = "<|endoftext|>"
END_OF_WORD: Final = "</w>"

# Words that free text is likely to hold: they cost few tokens, and the grammar's own words stay whole.
COMMON_WORDS: Final = [
    "about",
    "above",
    "across",
    "after",
    "all",
    "also",
    "among",
    "and",
    "animal",
    "apple",
    "around",
    "art",
    "at",
    "autumn",
    "baby",
    "bag",
    "beach",
    "bear",
    "bed",
    "before",
    "behind",
    "best",
    "between",
    "bike",
    "bird",
    "boat",
    "body",
    "book",
    "bottle",
    "box",
    "bread",
    "bridge",
    "building",
    "bus",
    "but",
    "butterfly",
    "by",
    "cake",
    "camera",
    "candle",
    "car",
    "castle",
    "cat",
    "chair",
    "child",
    "church",
    "city",
    "clean",
    "clear",
    "cloud",
    "coat",
    "coffee",
    "cold",
    "colour",
    "color",
    "cup",
    "dark",
    "day",
    "deep",
    "desk",
    "dog",
    "door",
    "down",
    "dragon",
    "dream",
    "dress",
    "earth",
    "edge",
    "egg",
    "evening",
    "eye",
    "face",
    "fall",
    "family",
    "far",
    "farm",
    "field",
    "fine",
    "fire",
    "fish",
    "floor",
    "flower",
    "flying",
    "food",
    "forest",
    "four",
    "fox",
    "from",
    "fruit",
    "game",
    "garden",
    "girl",
    "glass",
    "gold",
    "grass",
    "ground",
    "group",
    "hair",
    "hand",
    "happy",
    "hat",
    "head",
    "high",
    "hill",
    "home",
    "horse",
    "hot",
    "house",
    "ice",
    "in",
    "inside",
    "is",
    "island",
    "it",
    "its",
    "juice",
    "key",
    "king",
    "kitchen",
    "lake",
    "lamp",
    "land",
    "leaf",
    "light",
    "line",
    "lion",
    "long",
    "low",
    "machine",
    "made",
    "man",
    "many",
    "map",
    "metal",
    "mirror",
    "modern",
    "moon",
    "morning",
    "mountain",
    "mouse",
    "music",
    "near",
    "new",
    "night",
    "no",
    "not",
    "ocean",
    "of",
    "old",
    "on",
    "one",
    "open",
    "orange",
    "out",
    "over",
    "owl",
    "painting",
    "palace",
    "paper",
    "park",
    "people",
    "phone",
    "pizza",
    "plane",
    "planet",
    "plant",
    "portrait",
    "rain",
    "red",
    "river",
    "road",
    "robot",
    "rock",
    "room",
    "rose",
    "sand",
    "scene",
    "sea",
    "ship",
    "shirt",
    "shoe",
    "short",
    "silver",
    "sitting",
    "sky",
    "sleeping",
    "smiling",
    "snow",
    "soft",
    "space",
    "spring",
    "standing",
    "stone",
    "storm",
    "street",
    "strong",
    "summer",
    "sun",
    "sunset",
    "table",
    "tall",
    "tea",
    "the",
    "their",
    "this",
    "three",
    "time",
    "to",
    "tower",
    "town",
    "toy",
    "train",
    "tree",
    "two",
    "under",
    "up",
    "village",
    "wall",
    "warm",
    "watch",
    "water",
    "wave",
    "wide",
    "wild",
    "wind",
    "window",
    "winter",
    "with",
    "without",
    "wolf",
    "woman",
    "wood",
    "world",
    "young",
]


_READ: Final = frozenset(GRAMMAR_WORDS)
_WORD: Final = re.compile(r"[^\W_]+")


def words_unread(prompt: str) -> list[str]:
    """Return a prompt's words that mean nothing to the model, each once, in their order: those outside its grammar."""
    words = dict.fromkeys(_WORD.findall(prompt.lower()))
    return [word for word in words if not {word, word.removesuffix("s"), word.removesuffix("es")} & _READ]


def byte_symbols() -> list[str]:
    """Return the 256 printable symbols that stand for bytes in GPT-2's and CLIP's vocabularies, in byte order."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    shifted = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(shifted)) for byte in range(256)]


def learn_merges(words: Counter[str], count: int) -> list[tuple[str, str]]:
    """Return up to `count` merges, the most frequent pair first; ties go to the pair that sorts first."""
    split = {word: [*word[:-1], word[-1] + END_OF_WORD] for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = {word: _merged(parts, best) for word, parts in split.items()}
    return merges


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Return `parts` with every occurrence of `pair` joined."""
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def build_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the vocabulary (token to id, `VOCABULARY_SIZE` entries at most) and the merges, the same every time."""
    words: Counter[str] = Counter()
    for word in COMMON_WORDS:
        words[word] += 1
    for phrase in FILLERS:
        words.update(dict.fromkeys(phrase.split(), 4))
    # a weight high enough that every word of the grammar becomes one token before any other word takes a merge
    words.update(dict.fromkeys(GRAMMAR_WORDS, 1000))
    symbols = byte_symbols()
    tokens = symbols + [symbol + END_OF_WORD for symbol in symbols]
    merges = learn_merges(words, VOCABULARY_SIZE - len(tokens) - 2)
    tokens += list(dict.fromkeys(left + right for left, right in merges))
    return {token: index for index, token in enumerate([*tokens, BOS, EOS])}, merges


def write_tokenizer_files(folder: Path) -> None:
    """Write `vocab.json` and `merges.txt` in CLIP's format."""
    vocabulary, merges = build_vocabulary()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
