"""The registry in the admin: models added by their address on the Hub, fetched, checked, enabled, made the default."""

from typing import Any, Final

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from imagegen_project.common.staff import StaffAdmin, age, bar, clipped
from models_registry.choices import DiskState, DownloadProblem
from models_registry.errors import DownloadFailedError
from models_registry.hub_facts import hub_facts
from models_registry.models import Checkpoint
from models_registry.services import (
    checkpoint_forget_files,
    checkpoint_make_default,
    checkpoint_request_check,
    checkpoint_request_download,
)

# Where the files come from: another value means other files.
SOURCE: Final = {"repository", "revision", "variant"}
# What was read of a repository before its row is saved: the session keeps it meanwhile.
READ_KEY: Final = "hub_facts"
# Facts that the form of a new row does not show as fields.
READ_ONLY: Final = ("pipeline", "distilled", "gated", "size_bytes")


class HubAddressForm(forms.Form):
    """Where a new model is."""

    address = forms.CharField(
        max_length=300,
        label="Address on the Hub",
        help_text="Such as https://huggingface.co/org/name, or org/name.",
    )


class CheckpointForm(forms.ModelForm[Checkpoint]):
    """A model's row."""

    def clean_enabled(self) -> bool:
        """Whether it is enabled. Raises ValidationError for the default, which has to be."""
        enabled: bool = self.cleaned_data["enabled"]
        if self.instance.is_default and not enabled:
            raise forms.ValidationError("It is the default model: make another one the default first.")
        return enabled


@admin.register(Checkpoint)
class CheckpointAdmin(StaffAdmin):
    """Models: add, fetch, check, enable, choose the default, set limits."""

    live = True
    form = CheckpointForm
    verbs: tuple[str, ...] = ("download", "check_files", "make_default", "enable", "disable")
    actions = verbs
    list_display = ("id", "name", "family", "where", "disk", "size_shown", "is_default", "enabled", "problem")
    list_filter = ("enabled", "state", "family", "dtype")
    search_fields = ("id", "name", "repository")
    readonly_fields = (
        *("is_default", "where", "disk", "size_shown", "problem", "gated", "pipeline", "distilled"),
        *("asked", "created_at", "updated_at"),
    )
    fieldsets = (
        ("State", {"fields": ("where", "disk", "size_shown", "problem", "asked")}),
        (None, {"fields": ("id", "name", "enabled", "is_default", "aliases")}),
        (
            "Source",
            {
                "fields": (
                    *("repository", "revision", "variant", "family", "pipeline", "distilled", "dtype"),
                    *("licence", "gated"),
                )
            },
        ),
        (
            "Values when a request is silent",
            {"fields": ("default_width", "default_height", "default_steps", "default_guidance_scale")},
        ),
        ("Limits", {"fields": ("min_size", "max_size", "size_multiple")}),
        ("History", {"classes": ("collapse",), "fields": ("created_at", "updated_at")}),
    )
    add_fieldsets = (
        (None, {"fields": ("id", "name", "enabled")}),
        ("Source", {"fields": ("repository", "revision", "variant", "family", "dtype", "licence")}),
        *fieldsets[3:5],
    )

    def get_fieldsets(self, request: HttpRequest, obj: Checkpoint | None = None) -> Any:
        """A new row has no state yet."""
        return self.fieldsets if obj else self.add_fieldsets

    def get_readonly_fields(self, request: HttpRequest, obj: Checkpoint | None = None) -> tuple[str, ...]:
        """The id is given once: a changed one would be another row."""
        return (*self.readonly_fields, "id") if obj else self.readonly_fields

    def add_view(self, request: HttpRequest, *args: Any, **options: Any) -> HttpResponse:
        """First the address; then what stands there, to be looked at and saved."""
        if request.method == "POST":
            return super().add_view(request, *args, **options)
        if not self.has_add_permission(request):
            raise PermissionDenied  # before the Hub is asked, by the service's own token
        form = HubAddressForm(request.GET if "address" in request.GET else None)
        if form.is_valid():
            try:
                facts = hub_facts(address=form.cleaned_data["address"])
            except DownloadFailedError as error:
                form.add_error("address", error.detail)
            else:
                request.session[READ_KEY] = facts.row_values()
                gated = "; its licence must be accepted on the Hub first" if facts.gated else ""
                said = (
                    f"Read from the Hub: {facts.pipeline}, {facts.files} files, {_size(facts.size_bytes)}, "
                    f"licence {facts.licence}{gated}. Nothing is saved yet."
                )
                self.message_user(request, said, messages.INFO)
                return super().add_view(request, *args, **options)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "form": form,
            "title": "Add a model by its address on the Hub",
        }
        return TemplateResponse(request, "admin/add_by_address.html", context)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """What was read of the repository."""
        facts = request.session.get(READ_KEY, {})
        return {name: value for name, value in facts.items() if name not in READ_ONLY}

    def save_model(self, request: HttpRequest, obj: Checkpoint, form: Any, change: Any) -> None:
        """Writes what was changed and nothing else: a download may be writing to the same row."""
        changed = set(form.changed_data)
        if not change:
            read = request.session.pop(READ_KEY, {})
            if read.get("repository") == obj.repository:
                for name in READ_ONLY:
                    setattr(obj, name, read[name])
            obj.save(force_insert=True)
            return
        if "repository" in changed and "revision" not in changed:
            obj.revision = ""  # a commit of the former repository
            changed.add("revision")
        if changed & SOURCE:
            checkpoint_forget_files(checkpoint=obj)
        obj.save(update_fields=[*changed, "updated_at"])

    @admin.display(description="state", ordering="state")
    def where(self, checkpoint: Checkpoint) -> SafeString:
        """Whether its files are there."""
        return format_html('<span class="state {}">{}</span>', checkpoint.state, checkpoint.state)

    @admin.display(description="on disk", ordering="downloaded_bytes")
    def disk(self, checkpoint: Checkpoint) -> SafeString | str:
        """How much of it is there."""
        words = f"{checkpoint.percent:.0f} %"
        return bar(checkpoint.percent, 100, words) if checkpoint.state == DiskState.DOWNLOADING else words

    @admin.display(description="size", ordering="size_bytes")
    def size_shown(self, checkpoint: Checkpoint) -> str:
        """All files together, once they are known."""
        return _size(checkpoint.size_bytes) if checkpoint.size_bytes else "unknown"

    @admin.display(description="problem")
    def problem(self, checkpoint: Checkpoint) -> SafeString | str:
        """Why it is broken, or did not come."""
        return clipped(checkpoint.error_detail, 60) if checkpoint.error_code else ""

    @admin.display(description="asked for")
    def asked(self, checkpoint: Checkpoint) -> str:
        """When its files were."""
        return age(checkpoint.download_requested_at)

    @admin.action(description="Fetch from the Hub", permissions=["change"])
    def download(self, request: HttpRequest, queryset: QuerySet[Checkpoint]) -> None:
        """Asks a task worker for those that are absent or broken."""
        asked = []
        for checkpoint in queryset:
            if checkpoint.error_code == DownloadProblem.UNSUPPORTED:
                self.complain(request, checkpoint, checkpoint.error_detail)
            elif checkpoint_request_download(checkpoint=checkpoint):
                asked.append(checkpoint)
        self.tell(request, asked, "Asked for")

    @admin.action(description="Check files on disk again", permissions=["change"])
    def check_files(self, request: HttpRequest, queryset: QuerySet[Checkpoint]) -> None:
        """Asks a task worker to read and verify every file."""
        asked = []
        for checkpoint in queryset.filter(state=DiskState.PRESENT):
            if not checkpoint_request_check(checkpoint=checkpoint):
                self.complain(request, checkpoint, "Redis cannot be reached; try again.")
                break
            asked.append(checkpoint)
        self.tell(request, asked, "The files are being checked")

    @admin.action(description="Make it the default", permissions=["change"])
    def make_default(self, request: HttpRequest, queryset: QuerySet[Checkpoint]) -> None:
        """One of them."""
        rows = list(queryset[:2])
        if len(rows) != 1:
            self.message_user(request, "Choose one model: there is one default.", messages.ERROR)
            return
        checkpoint_make_default(checkpoint=rows[0])
        self.tell(request, rows, "The default now")

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Checkpoint]) -> None:
        """Lets requests name them."""
        rows = list(queryset.filter(enabled=False))
        queryset.update(enabled=True)
        self.tell(request, rows, "Enabled")

    @admin.action(description="Disable", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Checkpoint]) -> None:
        """Keeps requests from naming them; not the default."""
        for row in queryset.filter(is_default=True):
            self.complain(request, row, "it is the default model: make another one the default first")
        rows = list(queryset.filter(enabled=True, is_default=False))
        queryset.filter(is_default=False).update(enabled=False)
        self.tell(request, rows, "Disabled")


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
