"""What is counted: by one process for itself, and by all processes together in one Redis hash.

Prometheus scrapes web processes only, so what workers count must be found from any of them. An addition is one round
trip; where Redis fails the count is lost, never the work. A flush starts them at zero, as a restarted process would.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from redis.exceptions import RedisError

from imagegen_project.common.redis import redis_client

logger = logging.getLogger(__name__)

# This process's own; the library's default registry would collect what any package puts there.
PROCESS_REGISTRY = CollectorRegistry()
HASH_KEY = "imagegen:counters"
_SUM = "sum"

# Fields of the hash, and by how much each grows.
Changes: TypeAlias = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class SharedCounter:
    """A number that only grows, one for each combination of label values."""

    name: str
    documentation: str
    labels: tuple[str, ...]

    def add(self, *values: str, amount: int = 1) -> None:
        """Counts `amount` under label values in the order of `labels`."""
        count(self.adding(*values, amount=amount))

    def adding(self, *values: str, amount: int = 1) -> Changes:
        """What `add` does, for `count`."""
        return ((_field(self.name, values, ""), amount),)

    def family(self, rows: Iterable[tuple[tuple[str, ...], str, float]]) -> Metric:
        """As Prometheus takes it, from the hash's rows of this counter."""
        family = CounterMetricFamily(self.name, self.documentation, labels=self.labels)
        for values, _, number in rows:
            family.add_metric(values, number)
        return family


@dataclass(frozen=True)
class SharedHistogram:
    """A distribution: how many observations were at most as large as each bound, and their sum."""

    name: str
    documentation: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...]

    def observe(self, value: float, *values: str) -> None:
        """Counts one observation under label values in the order of `labels`."""
        count(self.observing(value, *values))

    def observing(self, value: float, *values: str) -> Changes:
        """What `observe` does, for `count`."""
        bound = next((f"{bound:g}" for bound in self.bounds if value <= bound), "+Inf")
        return (_field(self.name, values, bound), 1), (_field(self.name, values, _SUM), float(value))

    def family(self, rows: Iterable[tuple[tuple[str, ...], str, float]]) -> Metric:
        """As Prometheus takes it, from the hash's rows of this histogram."""
        found: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
        for values, part, number in rows:
            found[values][part] = number
        names = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
        family = HistogramMetricFamily(self.name, self.documentation, labels=self.labels)
        for values, parts in found.items():
            heights = accumulate(parts.get(name, 0) for name in names)
            family.add_metric(values, list(zip(names, heights, strict=True)), parts.get(_SUM, 0))
        return family


def shared_families(metrics: Sequence[SharedCounter | SharedHistogram]) -> Iterator[Metric]:
    """The present values of shared metrics, read in one go. Raises RedisError."""
    rows: dict[str, list[tuple[tuple[str, ...], str, float]]] = defaultdict(list)
    stored: dict[bytes, bytes] = redis_client().hgetall(HASH_KEY)
    for field, number in stored.items():
        name, values, part = json.loads(field)
        rows[name].append((tuple(values), part, float(number)))
    for metric in metrics:
        # What an earlier version counted under other labels is left out.
        known = [row for row in rows[metric.name] if len(row[0]) == len(metric.labels)]
        yield metric.family(sorted(known))


def _field(name: str, values: Sequence[str], part: str) -> str:
    return json.dumps([name, list(values), part], separators=(",", ":"))


def count(*changes: Changes) -> None:
    """Counts what several counters and histograms would, in one round trip."""
    try:
        pipe: Any = redis_client().pipeline(transaction=False)
        for field, amount in chain(*changes):
            if isinstance(amount, int):
                pipe.hincrby(HASH_KEY, field, amount)
            else:
                pipe.hincrbyfloat(HASH_KEY, field, amount)
        pipe.execute()
    except (RedisError, OSError) as error:
        logger.debug("not counted", extra={"reason": type(error).__name__})
