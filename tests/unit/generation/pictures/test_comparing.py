"""The verdict on two pictures."""

import io

import pytest
from PIL import Image

from generation.choices import ReplayVerdict
from generation.pictures.comparing import pictures_compare


def png(*levels: int, side: int = 8) -> bytes:
    """A grey picture of two halves."""
    image = Image.new("RGB", (side, side), (levels[0],) * 3)
    image.paste((levels[-1],) * 3, (0, 0, side // 2, side))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("original", "replay", "verdict", "largest"),
    [
        ([png(100)], [png(100)], ReplayVerdict.EXACT, 0),
        ([png(100)], [png(100, 103)], ReplayVerdict.CLOSE, 3),
        ([png(100), png(5)], [png(100), png(200)], ReplayVerdict.DIFFERENT, 195),
        ([png(100)], [png(100, side=16)], ReplayVerdict.DIFFERENT, None),
        ([png(100)], [png(100), png(100)], ReplayVerdict.DIFFERENT, None),
    ],
)
def test_the_worst_pair_counts(
    original: list[bytes], replay: list[bytes], verdict: ReplayVerdict, largest: int | None
) -> None:
    """And its largest difference is said."""
    found = pictures_compare(original, replay)
    assert (found.verdict, found.largest) == (verdict, largest)
