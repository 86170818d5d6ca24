"""Several calls of a denoiser as one: what belongs to pictures is put side by side, what all share must be equal."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Call:
    """One call of a denoiser, with the number of rows that its tensors have: twice the pictures with guidance."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    @property
    def rows(self) -> int:
        """How many rows its first tensor has."""
        values = (*self.arguments, *self.keywords.values())
        return next(int(value.shape[0]) for value in values if isinstance(value, torch.Tensor) and value.ndim)

    @property
    def flat(self) -> dict[str, Any]:
        """All that it was called with, by name; dictionaries by the names of their values too."""
        named = {str(index): value for index, value in enumerate(self.arguments)} | self.keywords
        flat: dict[str, Any] = {}
        for name, value in named.items():
            if isinstance(value, dict):
                flat |= {f"{name}.{inner}": each for inner, each in value.items()}
            else:
                flat[name] = value
        return flat

    @property
    def tensors(self) -> list[torch.Tensor]:
        """Those that it was called with, in an order of its own."""
        return [value for value in self.flat.values() if isinstance(value, torch.Tensor)]

    @property
    def shape(self) -> Hashable:
        """All of it but the numbers in its tensors; None where something of it is neither tensor nor plain value."""
        said: list[Hashable] = []
        for name, value in self.flat.items():
            if isinstance(value, torch.Tensor):
                said.append((name, value.shape, value.stride(), value.dtype, value.device))
            elif isinstance(value, bool | int | float | str | None):
                said.append((name, type(value), value))
            else:
                return None
        return tuple(said)

    def changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Call":
        """The same call with other tensors."""

        def each(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: each(inner) for name, inner in value.items()}
            return change(value) if isinstance(value, torch.Tensor) else value

        return Call(
            tuple(each(value) for value in self.arguments),
            {name: each(value) for name, value in self.keywords.items()},
        )


def call_plainly(module: Any, call: Call) -> Any:
    """What a module answers."""
    return module(*call.arguments, **call.keywords)


def calls_fit(one: Call, other: Call) -> bool:
    """Whether two calls can be one: the same names, and for each either rows of one shape or equal values."""
    if one.keywords.get("return_dict") is not False:
        return False
    first, second = one.flat, other.flat
    return first.keys() == second.keys() and all(
        _fit(first[name], one.rows, second[name], other.rows) for name in first
    )


def _fit(one: Any, rows: int, other: Any, other_rows: int) -> bool:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return type(one) is type(other) and bool(one == other)
    if one.ndim == 0 or other.ndim == 0:  # a timestep for all rows of the call
        return bool(one.ndim == other.ndim)
    if one.shape[0] == rows and other.shape[0] == other_rows:
        return bool(one.shape[1:] == other.shape[1:] and one.device == other.device)
    return bool(one.shape == other.shape and torch.equal(one, other))


def calls_join(calls: Sequence[Call]) -> Call:
    """One call for all of them, which fit together."""
    rows = [call.rows for call in calls]
    arguments = tuple(
        _join([call.arguments[index] for call in calls], rows) for index in range(len(calls[0].arguments))
    )
    keywords = {name: _join([call.keywords[name] for call in calls], rows) for name in calls[0].keywords}
    return Call(arguments, keywords)


def _join(values: list[Any], rows: list[int]) -> Any:
    first = values[0]
    if isinstance(first, dict):
        return {name: _join([value[name] for value in values], rows) for name in first}
    if not isinstance(first, torch.Tensor):
        return first
    if first.ndim == 0:
        values = [value.reshape(1).expand(count) for value, count in zip(values, rows, strict=True)]
    elif first.shape[0] != rows[0]:
        return first
    if len({value.dtype for value in values}) > 1:
        # Timesteps of some schedulers are whole numbers; denoisers take them in single precision.
        values = [value.float() for value in values]
    return torch.cat(values)


def output_part(output: Any, rows: Sequence[int]) -> list[Any]:
    """What a joint call returned, as each of its calls would have returned it."""
    parts = [value.split(list(rows)) for value in output]
    return [tuple(part[index] for part in parts) for index in range(len(rows))]
