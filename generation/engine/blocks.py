"""Which modules of a part can be on the device one after another, told by the names of its weights.

Denoisers and text encoders are rows of blocks, each called by itself: modules with a number for a name. One that is
large, as a U-Net's are, is a row of blocks again.
"""

from collections.abc import Iterator, Mapping
from typing import Final

# A block of more than such a part of the whole is looked into.
_LARGE: Final = 1 / 16
# How much of a block has to be in its own blocks, for those to stand for it.
_COVERED: Final = 0.9


def blocks_of(sizes: Mapping[str, int]) -> list[str]:
    """The names of the blocks, where `sizes` are how large each weight is, by its name; none holds another."""
    totals: dict[str, int] = {}
    inner: dict[str, set[str]] = {"": set()}
    for name, size in sizes.items():
        above = ""
        for block in _numbered(name):
            totals[block] = totals.get(block, 0) + size
            inner.setdefault(block, set())
            inner[above].add(block)
            above = block
    whole = sum(sizes.values())

    def within(block: str) -> Iterator[str]:
        covered = sum(totals[each] for each in inner[block])
        if totals[block] > _LARGE * whole and covered >= _COVERED * totals[block]:
            for each in inner[block]:
                yield from within(each)
        else:
            yield block

    return sorted(name for block in inner[""] for name in within(block))


def least_of(sizes: Mapping[str, int]) -> int:
    """How much has to be there at once: the largest block, and all that is in none."""
    blocks = dict.fromkeys(blocks_of(sizes), 0)
    outside = 0
    for name, size in sizes.items():
        block = next((each for each in _numbered(name) if each in blocks), None)
        if block is None:
            outside += size
        else:
            blocks[block] += size
    return outside + max(blocks.values(), default=0)


def _numbered(name: str) -> Iterator[str]:
    """The modules with a number for a name that a weight is in, the outermost first; layers are none."""
    parts = name.split(".")
    for end, part in enumerate(parts[:-2], start=1):
        if part.isdecimal():
            yield ".".join(parts[:end])
