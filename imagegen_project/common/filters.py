"""Filters that lists share."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import django_filters
from django.core.exceptions import ValidationError
from django.forms import DateTimeInput
from django_filters.fields import IsoDateTimeField
from django_filters.rest_framework import DjangoFilterBackend
from rest_framework import serializers
from rest_framework.renderers import BrowsableAPIRenderer
from rest_framework.request import Request


class StrictFilterBackend(DjangoFilterBackend):
    """Refuses a filter that is given and empty, which would narrow nothing; the browsable pages send all they have."""

    def filter_queryset(self, request: Request, queryset: Any, view: Any) -> Any:
        """The narrowed rows. Raises ValidationError that names the filters to blame."""
        known = getattr(getattr(view, "filterset_class", None), "base_filters", {})
        empty = [name for name in known if request.query_params.get(name) == ""]
        if empty and not isinstance(request.accepted_renderer, BrowsableAPIRenderer):
            raise serializers.ValidationError(dict.fromkeys(empty, "May not be empty."))
        if request.query_params.keys().isdisjoint(known):
            return queryset  # a form of filters takes longer to make than a page of rows
        return super().filter_queryset(request, queryset, view)


class MomentField(IsoDateTimeField):
    """An ISO 8601 moment, as UTC: PostgreSQL refuses offsets and years that Python takes."""

    def clean(self, value: Any) -> datetime | None:
        """The moment. Raises ValidationError."""
        moment: datetime | None = super().clean(value)
        try:
            return moment.astimezone(UTC) if moment else None
        except (OverflowError, ValueError) as error:
            raise ValidationError("There is no such moment.", code="invalid") from error


class MomentFilter(django_filters.IsoDateTimeFilter):
    """Filters by a moment."""

    field_class = MomentField

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.extra["widget"] = DateTimeInput(attrs={"placeholder": "2026-01-31T12:00:00Z"})


def _listed(choices: Iterable[tuple[Any, Any]]) -> dict[str, str]:
    known = ", ".join(str(value) for value, _ in choices)
    return {"invalid_choice": f"%(value)s is none of {known}."}


class ChoiceFilter(django_filters.ChoiceFilter):
    """Filters by one of some words, which a refusal lists."""

    def __init__(self, *, choices: list[tuple[str, Any]], label: str) -> None:
        super().__init__(choices=choices, label=label, error_messages=_listed(choices), empty_label="any")


class MultipleChoiceFilter(django_filters.MultipleChoiceFilter):
    """Filters by some of these words, each given by itself; a refusal lists all that there are."""

    def __init__(self, *, choices: list[tuple[str, Any]], label: str) -> None:
        super().__init__(choices=choices, label=label, error_messages=_listed(choices))


class FlagFilter(ChoiceFilter):
    """Filters by `true` or `false`; Django's own takes no notice of any other word."""

    def __init__(self, *, label: str) -> None:
        super().__init__(choices=[("true", "yes"), ("false", "no")], label=label)

    def filter(self, qs: Any, value: str) -> Any:
        """The narrowed rows."""
        return super().filter(qs, value and value == "true") if value else qs
