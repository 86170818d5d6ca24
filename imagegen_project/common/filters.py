"""Filters that lists share."""

from datetime import UTC, datetime
from typing import Any

import django_filters
from django.core.exceptions import ValidationError
from django_filters.fields import IsoDateTimeField


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
