"""How lists of adapters are narrowed."""

import django_filters

from loras.choices import LoraState
from loras.models import Lora
from models_registry.choices import Family


class LoraFilter(django_filters.FilterSet):
    """By family and state (repeatable)."""

    family = django_filters.ChoiceFilter(choices=Family.choices)
    state = django_filters.MultipleChoiceFilter(choices=LoraState.choices)

    class Meta:
        model = Lora
        fields = ("family", "state")
