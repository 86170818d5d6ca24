"""How many pictures are drawn at a time: learned for each model and size, from how long its steps take."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

FIRST = 1
BUCKETS: Final = (1, 2, 4, 8, 16, 32)
# A bucket is kept where it draws this much more per second than the one below it,
LEAST_GAIN: Final = 1.1
# and where a step takes no more than so many times a single picture's: everybody's next preview waits for it.
SLOWEST_STEP: Final = 8.0
# Steps that judge a bucket, and how many of the latest are looked at.
SAMPLES: Final = 4
KEPT: Final = 15
# What was refused is tried again after this long: it may have been measured beside a busy neighbour.
AGAIN_AFTER_S: Final = 15.0
# Steps with fewer pictures than this part of a bucket say nothing about it.
_FULL_ENOUGH: Final = 0.75


class Capacity:
    """Begins at one picture, and doubles while that pays."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = FIRST
        self._clock = clock
        self._seconds: dict[int, deque[float]] = {bucket: deque(maxlen=KEPT) for bucket in BUCKETS}
        self._refused = BUCKETS[-1] * 2
        self._refused_at = 0.0
        # A bucket that seems not to pay, while the one below it is timed anew, and what that one took before.
        self._doubted = 0
        self._below_took = 0.0

    def observe(self, pictures: int, seconds: float) -> None:
        """Takes in how long a step with so many pictures took."""
        bucket = next((bucket for bucket in BUCKETS if bucket >= pictures), BUCKETS[-1])
        if pictures < _FULL_ENOUGH * bucket:
            return
        # As if the bucket had been full: more pictures take no less time.
        self._seconds[bucket].append(seconds * bucket / pictures)
        if len(self._seconds[bucket]) < SAMPLES:
            return
        if self.limit < bucket < self._refused and not self._doubted:  # one request of so many pictures
            self.limit = bucket
        if bucket == self.limit:
            self._judge()

    def shrink(self, pictures: int) -> None:
        """Memory did not suffice for so many."""
        self._refuse(max(2, next((bucket for bucket in BUCKETS if bucket >= pictures), BUCKETS[-1])))

    def _judge(self) -> None:
        if self._doubted:
            self._judge_again()
            return
        bucket, below = self.limit, self.limit // 2
        if below and self._seconds[below] and not self._pays(bucket):
            # The one below was timed at another moment, and a neighbour may have become busy since: once more, now.
            self._doubted, self.limit, self._below_took = bucket, below, min(self._seconds[below])
            self._seconds[below].clear()
            return
        if self._clock() - self._refused_at > AGAIN_AFTER_S:
            self._refused = BUCKETS[-1] * 2
        if bucket * 2 < self._refused and bucket * 2 <= BUCKETS[-1]:
            self.limit = bucket * 2
            self._seconds[self.limit].clear()

    def _judge_again(self) -> None:
        """With steps of the same moment, beside which all that was timed before is too fast by one factor."""
        bucket, self._doubted = self._doubted, 0
        slowed = min(self._seconds[self.limit]) / self._below_took
        if slowed > 1:
            for smaller in BUCKETS[: BUCKETS.index(self.limit)]:
                times = self._seconds[smaller]
                self._seconds[smaller] = deque((slowed * each for each in times), maxlen=KEPT)
        if self._pays(bucket):
            self.limit = bucket
        else:
            self._refuse(bucket)

    def _pays(self, bucket: int) -> bool:
        """Whether so many are drawn faster than by halves, and nobody waits for a step too long."""
        # By the fastest of each: kernels made for a new shape and busy neighbours only ever slow a step down.
        step = min(self._seconds[bucket])
        gain = 2 * min(self._seconds[bucket // 2]) / step
        return gain >= LEAST_GAIN and step <= SLOWEST_STEP * min(self._seconds[1], default=step)

    def _refuse(self, bucket: int) -> None:
        self._refused, self._refused_at, self._doubted = bucket, self._clock(), 0
        self.limit = bucket // 2
