"""How lists of LoRA are narrowed."""

import django_filters

from imagegen_project.common.filters import ChoiceFilter, MultipleChoiceFilter
from loras.choices import LoraState
from loras.models import Lora
from models_registry.choices import Family


class LoraFilter(django_filters.FilterSet):
    """By family and state (repeatable)."""

    family = ChoiceFilter(choices=Family.choices, label="Family of models")
    state = MultipleChoiceFilter(choices=LoraState.choices, label="State, one or more")

    class Meta:
        model = Lora
        fields = ("family", "state")
