"""The registry in the admin."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from models_registry.choices import DiskState
from models_registry.models import Checkpoint
from models_registry.services import (
    checkpoint_forget_files,
    checkpoint_request_check,
    checkpoint_request_download,
)

# Where the files come from: another value means other files.
SOURCE = {"repository", "revision", "variant"}


@admin.register(Checkpoint)
class CheckpointAdmin(admin.ModelAdmin[Checkpoint]):
    """Checkpoints: enable, choose the default, set limits, download."""

    list_display = (
        "id",
        "name",
        "family",
        "repository",
        "enabled",
        "is_default",
        "state",
        "percent_shown",
        "size_shown",
        "error_detail",
    )
    list_filter = ("enabled", "state", "family", "dtype")
    search_fields = ("id", "name", "repository")
    readonly_fields = (
        "state",
        "percent_shown",
        "size_shown",
        "error_code",
        "error_detail",
        "gated",
        "pipeline",
        "distilled",
        "download_requested_at",
        "created_at",
        "updated_at",
    )
    actions = ("download", "check_files")

    fieldsets = (
        (None, {"fields": ("id", "name", "enabled", "is_default", "aliases")}),
        (
            "Source",
            {
                "fields": (
                    "repository",
                    "revision",
                    "variant",
                    "family",
                    "pipeline",
                    "distilled",
                    "dtype",
                    "licence",
                    "gated",
                )
            },
        ),
        (
            "Files",
            {
                "fields": (
                    "state",
                    "percent_shown",
                    "size_shown",
                    "error_code",
                    "error_detail",
                    "download_requested_at",
                )
            },
        ),
        (
            "Values when a request is silent",
            {"fields": ("default_width", "default_height", "default_steps", "default_guidance_scale")},
        ),
        ("Limits", {"fields": ("min_size", "max_size", "size_multiple")}),
        ("History", {"fields": ("created_at", "updated_at")}),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Checkpoint | None = None) -> tuple[str, ...]:
        """The id is given once: a changed one would be another row."""
        return (*self.readonly_fields, "id") if obj else self.readonly_fields

    def save_model(self, request: HttpRequest, obj: Checkpoint, form: Any, change: Any) -> None:
        """Writes what was changed and nothing else: a download may be writing to the same row."""
        changed = set(form.changed_data)
        if not change:
            obj.save()
            return
        if "repository" in changed and "revision" not in changed:
            obj.revision = ""  # a commit of the former repository
            changed.add("revision")
        if changed & SOURCE:
            checkpoint_forget_files(checkpoint=obj)
        obj.save(update_fields=[*changed, "updated_at"])

    @admin.display(description="on disk", ordering="downloaded_bytes")
    def percent_shown(self, checkpoint: Checkpoint) -> str:
        """How much of it is there."""
        return f"{checkpoint.percent:.0f} %"

    @admin.display(description="size", ordering="size_bytes")
    def size_shown(self, checkpoint: Checkpoint) -> str:
        """All files together, once they are known."""
        return f"{checkpoint.size_bytes / 1e6:,.0f} MB" if checkpoint.size_bytes else "unknown"

    @admin.action(description="Download", permissions=["change"])
    def download(self, request: HttpRequest, queryset: QuerySet[Checkpoint]) -> None:
        """Asks a task worker for those that are absent or broken."""
        asked = sum(checkpoint_request_download(checkpoint=checkpoint) for checkpoint in queryset)
        self.message_user(request, f"{asked} will be downloaded.", messages.SUCCESS)

    @admin.action(description="Check files on disk again", permissions=["change"])
    def check_files(self, request: HttpRequest, queryset: QuerySet[Checkpoint]) -> None:
        """Asks a task worker to read and verify every file."""
        for checkpoint in queryset.filter(state=DiskState.PRESENT):
            if not checkpoint_request_check(checkpoint=checkpoint):
                self.message_user(request, "Redis cannot be reached; try again.", messages.ERROR)
                return
        self.message_user(request, "The files are being checked; reload to see the result.", messages.SUCCESS)
