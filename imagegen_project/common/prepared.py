"""Questions to the database that are put into SQL once.

Django makes the SQL of a query anew each time it is asked, which takes several times as long as PostgreSQL's answer.
What each of many requests asks in the same words is prepared instead, with its values left open.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from django.db.models import Model, QuerySet, Value

_Row = TypeVar("_Row", bound=Model)


@dataclass(frozen=True)
class _Open:
    """Stands for a value in the parameters of a query."""

    name: str


def open_value(name: str) -> Value:
    """What stands in a prepared question for the value that it is asked with under this name."""
    return Value(_Open(name))


class Prepared(Generic[_Row]):
    """A question for rows of a model, which `rows` makes as Django does; what it annotates comes as the driver has it.

    Nothing is joined to the rows (`select_related`), and nothing fetched beside them.
    """

    def __init__(self, rows: Callable[[], QuerySet[_Row]]) -> None:
        self._rows = rows

    def all(self, **values: Any) -> list[_Row]:
        """The rows, for these values of what was left open."""
        model, sql, parameters = self._question
        given = [values[each.name] if isinstance(each, _Open) else each for each in parameters]
        manager = model._default_manager  # noqa: SLF001 - Django's own interface
        return list(manager.raw(sql, given))

    def first(self, **values: Any) -> _Row | None:
        """The first of them."""
        return next(iter(self.all(**values)), None)

    @cached_property
    def _question(self) -> tuple[type[_Row], str, tuple[Any, ...]]:
        rows = self._rows()
        sql, parameters = rows.query.sql_with_params()
        return rows.model, sql, parameters
