"""How lists of generations are narrowed."""

import django_filters

from generation.choices import Kind, Status
from generation.models import Generation
from imagegen_project.common.filters import ChoiceFilter, MomentFilter, MultipleChoiceFilter


class GenerationFilter(django_filters.FilterSet):
    """By status (repeatable), kind, model and date."""

    status = MultipleChoiceFilter(choices=Status.choices)
    kind = ChoiceFilter(choices=Kind.choices)
    model = django_filters.CharFilter(field_name="checkpoint_id")
    created_after = MomentFilter(field_name="created_at", lookup_expr="gte")
    created_before = MomentFilter(field_name="created_at", lookup_expr="lt")

    class Meta:
        model = Generation
        fields = ("status", "kind", "model", "created_after", "created_before")
