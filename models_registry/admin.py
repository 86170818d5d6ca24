"""The registry in the admin."""

from django.contrib import admin

from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_note


@admin.register(Checkpoint)
class CheckpointAdmin(admin.ModelAdmin[Checkpoint]):
    """Checkpoints: enable, choose the default, set limits."""

    list_display = (
        "id",
        "name",
        "family",
        "repository",
        "default_width",
        "default_height",
        "enabled",
        "is_default",
        "note",
    )
    list_filter = ("enabled", "family", "dtype")
    search_fields = ("id", "name", "repository")
    readonly_fields = ("created_at", "updated_at")

    fieldsets = (
        (None, {"fields": ("id", "name", "enabled", "is_default")}),
        ("Source", {"fields": ("repository", "revision", "family", "dtype", "licence")}),
        (
            "Values when a request is silent",
            {"fields": ("default_width", "default_height", "default_steps", "default_guidance_scale")},
        ),
        ("Limits", {"fields": ("min_size", "max_size", "size_multiple")}),
        ("History", {"fields": ("created_at", "updated_at")}),
    )

    @admin.display(description="note")
    def note(self, checkpoint: Checkpoint) -> str:
        """What one should know before using it."""
        return checkpoint_note(checkpoint)
