"""The registry in the admin, with what GPU workers can be told about a model."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from generation.choices import CommandKind
from generation.orders import order_create
from imagegen_project.common.errors import DomainError
from imagegen_project.common.http import user_of
from models_registry.admin import CheckpointAdmin
from models_registry.models import Checkpoint


class ModelAdmin(CheckpointAdmin):
    """Models: also onto a GPU worker, and off it."""

    verbs = (*CheckpointAdmin.verbs, "load", "unload")
    actions = verbs

    @admin.action(description="Load on a GPU worker", permissions=["change"])
    def load(self, request: HttpRequest, queryset: QuerySet[Checkpoint]) -> None:
        """Orders it."""
        self._order(request, queryset, CommandKind.LOAD, "Load ordered")

    @admin.action(description="Unload from a GPU worker", permissions=["change"])
    def unload(self, request: HttpRequest, queryset: QuerySet[Checkpoint]) -> None:
        """Orders it."""
        self._order(request, queryset, CommandKind.UNLOAD, "Unload ordered")

    def _order(
        self, request: HttpRequest, queryset: QuerySet[Checkpoint], kind: CommandKind, said: str
    ) -> None:
        done = []
        for checkpoint in queryset:
            try:
                order_create(kind=kind, checkpoint=checkpoint, requested_by=user_of(request))
            except DomainError as error:
                self.complain(request, checkpoint, error.detail)
            else:
                done.append(checkpoint)
        self.tell(request, done, said)


admin.site.unregister(Checkpoint)
admin.site.register(Checkpoint, ModelAdmin)
