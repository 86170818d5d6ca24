"""Adapters in the admin: upload, look, share, disable, download, delete."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html
from django.utils.safestring import SafeString

from imagegen_project.common.errors import DomainError
from imagegen_project.common.staff import ReadOnlyAdmin, StaffAdmin, age, clipped
from loras.choices import LoraSource, LoraState
from loras.models import Lora, LoraTrial
from loras.selectors import loras_pinned
from loras.services import lora_delete, lora_inspect, lora_request, lora_upload, lora_validate
from models_registry.schedulers import SCHEDULERS


class LoraUploadForm(forms.ModelForm[Lora]):
    """A new adapter's file; its header is read before anything is stored. `owner` is the member of staff."""

    owner: User
    file = forms.FileField(help_text="A LoRA in safetensors form.")

    class Meta:
        model = Lora
        fields = ("name", "trigger_words")

    def clean_name(self) -> str:
        """The name. Raises ValidationError when the owner has an adapter of this name."""
        name: str = self.cleaned_data["name"]
        if Lora.objects.filter(owner=self.owner, name=name).exists():
            raise ValidationError("You have another LoRA of this name.")
        return name

    def clean_file(self) -> Any:
        """The upload. Raises ValidationError with the reason why it cannot be used."""
        file = self.cleaned_data["file"]
        try:
            lora_inspect(owner=self.owner, file=file)
        except DomainError as error:
            raise ValidationError(error.detail, error.code) from error
        return file


class LoraChangeForm(forms.ModelForm[Lora]):
    """What can be changed of an adapter."""

    scheduler = forms.ChoiceField(
        choices=[("", "none in particular"), *SCHEDULERS.items()],
        required=False,
        help_text="What it was distilled for: requests that name none get this one.",
    )

    def clean_shared(self) -> bool:
        """Whether to share it. Raises ValidationError when another shared adapter has its name."""
        shared: bool = self.cleaned_data["shared"]
        others = Lora.objects.filter(shared=True, name=self.instance.name).exclude(pk=self.instance.pk)
        if shared and others.exists():
            raise ValidationError("Another shared LoRA has this name.")
        return shared


@admin.register(Lora)
class LoraAdmin(StaffAdmin):
    """LoRA: what each is, who has it, and whether it can be used."""

    live = True
    verbs = ("share_selected", "enable_selected", "disable_selected", "request_selected", "validate_selected")
    list_display = (
        "name",
        "owner",
        "family",
        "rank",
        "state_shown",
        "problem",
        "size",
        "shared",
        "enabled",
        "used",
    )
    list_filter = ("state", "family", "source", "shared", "enabled")
    list_select_related = ("owner",)
    search_fields = ("name", "repository", "=sha256", "owner__username")
    actions = verbs
    fieldsets = (
        ("State", {"fields": ("state_shown", "error_code", "error_detail", "size", "used", "created_at")}),
        (None, {"fields": ("name", "owner", "shared", "enabled", "trigger_words", "scheduler")}),
        ("Source", {"fields": ("source", "repository", "weight_name", "revision")}),
        (
            "Content",
            {"fields": ("family", "rank", "alpha", "targets", "text_encoders", "key_style", "sha256")},
        ),
    )
    add_fieldsets = ((None, {"fields": ("name", "file", "trigger_words")}),)
    _editable = ("shared", "enabled", "trigger_words", "scheduler")
    form = LoraChangeForm

    @admin.display(description="state", ordering="state")
    def state_shown(self, lora: Lora) -> SafeString:
        """Whether it can be used: what is being looked at, and what was found."""
        words = {
            LoraState.CHECKING: "checking: every weight is looked at",
            LoraState.PRESENT: "present and valid",
        }
        return format_html(
            '<span class="state {}">{}</span>', lora.state, words.get(LoraState(lora.state), lora.state)
        )

    @admin.display(description="problem")
    def problem(self, lora: Lora) -> SafeString | str:
        """Why it is broken, or did not come."""
        return clipped(lora.error_detail, 48) if lora.error_code else ""

    @admin.display(description="used", ordering="last_used_at")
    def used(self, lora: Lora) -> str:
        """How long ago."""
        return age(lora.last_used_at)

    @admin.display(description="size", ordering="size_bytes")
    def size(self, lora: Lora) -> str:
        """Of its file."""
        return filesizeformat(lora.size_bytes)

    def get_form(self, request: HttpRequest, obj: Lora | None = None, *args: Any, **options: Any) -> Any:
        """An upload's form for a new one; afterwards only a few fields can be changed."""
        if obj is None:
            return type("UploadForm", (LoraUploadForm,), {"owner": request.user})
        return super().get_form(request, obj, *args, **options)

    def get_fieldsets(self, request: HttpRequest, obj: Lora | None = None) -> Any:
        """What the form shows."""
        return self.fieldsets if obj else self.add_fieldsets

    def get_readonly_fields(self, request: HttpRequest, obj: Lora | None = None) -> Any:
        """All but the few."""
        if obj is None:
            return ()
        shown = [name for _, options in self.fieldsets for name in options["fields"]]
        fixed = ("shared",) if obj.source == LoraSource.BUILTIN else ()
        return [name for name in shown if name not in self._editable or name in fixed]

    def add_view(self, request: HttpRequest, *args: Any, **options: Any) -> HttpResponse:
        """The upload's page; what only storing it finds out is a message there."""
        try:
            return super().add_view(request, *args, **options)
        except DomainError as error:
            self.message_user(request, error.detail, messages.ERROR)
            return HttpResponseRedirect(request.path)

    def save_model(self, request: HttpRequest, obj: Lora, form: Any, change: bool) -> None:  # noqa: FBT001
        """A new one is stored like an upload through the API, as the member of staff's own."""
        if change:
            super().save_model(request, obj, form, change)
            return
        stored = lora_upload(
            owner=form.owner,
            name=obj.name,
            file=form.cleaned_data["file"],
            trigger_words=obj.trigger_words,
        )
        obj.__dict__.update(stored.__dict__)

    def has_delete_permission(self, request: HttpRequest, obj: Lora | None = None) -> bool:
        """What ships with the project stays, and what is in use."""
        stays = obj is not None and (obj.source == LoraSource.BUILTIN or obj.id in loras_pinned())
        return super().has_delete_permission(request, obj) and not stays

    def rows_that_stay(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        """The same, of many."""
        stay: QuerySet[Any] = rows.filter(Q(source=LoraSource.BUILTIN) | Q(pk__in=loras_pinned()))
        return stay

    def delete_model(self, request: HttpRequest, obj: Lora) -> None:
        """Deletes with the file."""
        self._delete(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Lora]) -> None:
        """Deletes with the files; says which had to stay, being needed since the page was shown."""
        for lora in queryset:
            self._delete(request, lora)

    def _delete(self, request: HttpRequest, lora: Lora) -> None:
        try:
            lora_delete(user=request.user, lora=lora)  # type: ignore[arg-type]  # the admin lets nobody else in
        except DomainError as error:
            self.message_user(request, f"{lora.name}: {error}", messages.ERROR)

    @admin.action(description="Share with everybody", permissions=["change"])
    def share_selected(self, request: HttpRequest, queryset: QuerySet[Lora]) -> None:
        """Shares those whose name no other shared adapter has."""
        done = []
        for lora in queryset.filter(shared=False):
            lora.shared = True
            try:
                lora.validate_constraints()
            except ValidationError as error:
                self.complain(request, lora, " ".join(error.messages))
            else:
                lora.save(update_fields=["shared", "updated_at"])
                done.append(lora)
        self.tell(request, done, "Shared with everybody")

    @admin.action(description="Enable", permissions=["change"])
    def enable_selected(self, request: HttpRequest, queryset: QuerySet[Lora]) -> None:
        """Lets requests name them."""
        rows = list(queryset.filter(enabled=False))
        queryset.update(enabled=True)
        self.tell(request, rows, "Enabled")

    @admin.action(description="Disable", permissions=["change"])
    def disable_selected(self, request: HttpRequest, queryset: QuerySet[Lora]) -> None:
        """Keeps requests from naming them."""
        rows = list(queryset.filter(enabled=True))
        queryset.update(enabled=False)
        self.tell(request, rows, "Disabled")

    @admin.action(description="Fetch from the Hub", permissions=["change"])
    def request_selected(self, request: HttpRequest, queryset: QuerySet[Lora]) -> None:
        """Asks for the files that are not on disk."""
        done = []
        for lora in queryset.exclude(state=LoraState.PRESENT):
            try:
                done.append(lora_request(lora=lora))
            except DomainError as error:
                self.complain(request, lora, error.detail)
        self.tell(request, done, "Asked for")

    @admin.action(description="Validate again", permissions=["change"])
    def validate_selected(self, request: HttpRequest, queryset: QuerySet[Lora]) -> None:
        """Has every weight of files that are there looked at again."""
        done = []
        for lora in queryset:
            try:
                done += [lora] if lora_validate(lora=lora) else []
            except DomainError as error:
                self.complain(request, lora, error.detail)
        self.tell(request, done, "Validated again")


@admin.register(LoraTrial)
class LoraTrialAdmin(ReadOnlyAdmin):
    """Files that workers died of: two deaths keep a file out of use, until they are deleted here."""

    list_display = ("sha256", "worker", "started_at", "died_at")
    list_filter = ("died_at",)
    search_fields = ("=sha256", "worker")
