"""How far two pictures lie apart, for a replay's verdict on its original."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from PIL import Image, ImageChops, ImageStat

from generation.choices import ReplayVerdict

# Root of the mean square, of 255 levels; 8 is a signal-to-noise ratio of 30 dB. The same picture in single precision
# and in bfloat16 lies at 42 to 49 dB (measured with the built-in model); another seed's lies near 10.
CLOSE_LEVELS: Final = 8.0


@dataclass(frozen=True)
class Comparison:
    """The verdict, and the largest difference of one colour of one pixel; None where sizes or numbers differ."""

    verdict: ReplayVerdict
    largest: int | None


def pictures_compare(originals: Sequence[bytes], replays: Sequence[bytes]) -> Comparison:
    """Compares the files of two generations, picture by picture; the worst pair counts. Raises OSError, ValueError."""
    if len(originals) != len(replays):
        return Comparison(ReplayVerdict.DIFFERENT, None)
    largest, apart = 0, 0.0
    for pair in zip(originals, replays, strict=True):
        one, other = (_opened(data) for data in pair)
        if one.size != other.size:
            return Comparison(ReplayVerdict.DIFFERENT, None)
        difference = ImageChops.difference(one, other)
        largest = max(largest, *(cast(tuple[int, int], band)[1] for band in difference.getextrema()))
        apart = max(apart, math.sqrt(sum(value**2 for value in ImageStat.Stat(difference).rms) / 3))
    if largest == 0:
        return Comparison(ReplayVerdict.EXACT, 0)
    return Comparison(ReplayVerdict.CLOSE if apart <= CLOSE_LEVELS else ReplayVerdict.DIFFERENT, largest)


def _opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")
