"""How lists of generations are narrowed."""

import re
from typing import Any, Final

import django_filters
from django import forms
from django.contrib.postgres.search import SearchQuery
from django.core.exceptions import ValidationError
from django.db.models import QuerySet

from generation.choices import Kind, Status
from generation.models import Generation
from generation.selectors import generations_with_words
from imagegen_project.common.filters import ChoiceFilter, FlagFilter, MomentFilter, MultipleChoiceFilter

_WORD: Final = re.compile(r"[^\W_]+")
_MAX_CHARACTERS: Final = 200
_MAX_WORDS: Final = 20


class WordsField(forms.CharField):
    """Words to look for, as PostgreSQL asks for all of them: each in full, or by how it begins."""

    def clean(self, value: Any) -> SearchQuery | None:
        """The question. Raises ValidationError."""
        text: str = super().clean(value)
        if not text:
            return None
        words = _WORD.findall(text)
        if not 1 <= len(words) <= _MAX_WORDS:
            raise ValidationError(f"Must hold 1 to {_MAX_WORDS} words.", code="invalid")
        asked = " & ".join(f"'{word}':*" for word in words)
        return SearchQuery(asked, config="simple", search_type="raw")


class WordsFilter(django_filters.CharFilter):
    """Rows whose prompts hold all of the words."""

    field_class = WordsField

    def filter(self, qs: QuerySet[Generation], value: SearchQuery | None) -> QuerySet[Generation]:
        """The narrowed rows."""
        return qs if value is None else generations_with_words(qs, value)


class MineFilter(FlagFilter):
    """Rows of whoever asks, or those of others: staff see all."""

    def filter(self, qs: QuerySet[Generation], value: str) -> QuerySet[Generation]:
        """The narrowed rows."""
        if not value:
            return qs
        asks = self.parent.request.user
        return qs.filter(owner=asks) if value == "true" else qs.exclude(owner=asks)


class GenerationFilter(django_filters.FilterSet):
    """By words of the prompt, status (repeatable), kind, model, mark and date."""

    q = WordsFilter(max_length=_MAX_CHARACTERS, label="Words of the prompt, each in full or by how it begins")
    status = MultipleChoiceFilter(choices=Status.choices, label="Status, one or more")
    kind = ChoiceFilter(choices=Kind.choices, label="Kind")
    model = django_filters.CharFilter(field_name="checkpoint_id", label="Model")
    favorite = FlagFilter(label="Only favorites, or only others")
    mine = MineFilter(label="Only yours, or only others'")
    created_after = MomentFilter(
        field_name="created_at", lookup_expr="gte", label="Made at this moment or later"
    )
    created_before = MomentFilter(field_name="created_at", lookup_expr="lt", label="Made before this moment")

    class Meta:
        model = Generation
        fields = ("q", "status", "kind", "model", "favorite", "mine", "created_after", "created_before")
