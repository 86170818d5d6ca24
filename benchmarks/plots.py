"""Pictures of what was measured: an SVG beside the JSON file, where one is named."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def plot_bars(path: Path | None, *, title: str, unit: str, values: Mapping[str, Sequence[float]]) -> None:
    """The median of each, and its range."""
    figure = Figure(figsize=(7, 0.8 + 0.4 * len(values)))
    axes = figure.subplots()
    for row, found in enumerate(values.values()):
        middle = statistics.median(found)
        axes.barh(row, middle, color="#4878a8")
        axes.errorbar(middle, row, xerr=[[middle - min(found)], [max(found) - middle]], color="k", capsize=3)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    _save(path, axes, title, unit)


def plot_shares(path: Path | None, *, title: str, unit: str, values: Mapping[str, Sequence[float]]) -> None:
    """Which share of each stays below which value."""
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    for name, found in values.items():
        shares = [100 * (index + 1) / len(found) for index in range(len(found))]
        axes.plot(sorted(found), shares, label=name)
    axes.set_ylabel("% at most")
    axes.set_xlim(left=0)
    axes.legend()
    _save(path, axes, title, unit)


def _save(path: Path | None, axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    if path is not None:
        axes.figure.savefig(path.with_suffix(".svg"), bbox_inches="tight")
