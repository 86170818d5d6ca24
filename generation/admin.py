"""Generations, pictures, workers and orders in the admin."""

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from generation.errors import GenerationEndedError
from generation.models import GeneratedImage, Generation, WebhookDelivery, WebhookGone, Worker, WorkerCommand
from generation.services import generation_cancel, generation_delete


def _picture(image: GeneratedImage, pixels: int) -> SafeString:
    return _thumbnail(image.get_absolute_url(), pixels)


def _thumbnail(url: str, pixels: int) -> SafeString:
    return format_html(
        '<a href="{}"><img src="{}" height="{}" loading="lazy" alt="picture"></a>', url, url, pixels
    )


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # serves several models
    """Rows that only the services write."""

    def has_add_permission(self, request: HttpRequest, *args: object) -> bool:
        """Nothing is added by hand."""
        return False

    def has_change_permission(self, request: HttpRequest, *args: object) -> bool:
        """Nothing is changed by hand."""
        return False


class GeneratedImageInline(admin.TabularInline[GeneratedImage, Generation]):
    """A generation's pictures."""

    model = GeneratedImage
    fields = ("index", "picture", "seed", "width", "height", "size_bytes", "sha256")
    readonly_fields = fields
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, *args: object) -> bool:
        """Nothing is added by hand."""
        return False

    @admin.display(description="picture")
    def picture(self, image: GeneratedImage) -> SafeString:
        """A thumbnail that links to the file."""
        return _picture(image, 160)


@admin.register(Generation)
class GenerationAdmin(ReadOnlyAdmin):
    """Generations: watch, search, cancel, delete."""

    list_display = (
        "short_id",
        "thumbnail",
        "status",
        "owner",
        "checkpoint",
        "short_prompt",
        "progress",
        "created_at",
    )
    list_filter = ("status", "kind", "checkpoint", "scheduler", "error_code", "created_at")
    readonly_fields = ("inputs",)
    list_select_related = ("owner", "checkpoint")
    search_fields = ("=id", "prompt", "owner__username")
    date_hierarchy = "created_at"
    inlines = (GeneratedImageInline,)
    actions = ("cancel_selected",)
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Generation]:
        """With the pictures, so that a page costs the same however many rows it has."""
        return super().get_queryset(request).prefetch_related("images")

    @admin.display(description="id", ordering="id")
    def short_id(self, generation: Generation) -> str:
        """The random end of the key: its beginning is the time."""
        return f"…{str(generation.id)[-12:]}"

    @admin.display(description="picture")
    def thumbnail(self, generation: Generation) -> SafeString | str:
        """The first picture."""
        image = next(iter(generation.images.all()), None)
        return _picture(image, 64) if image else "none"

    @admin.display(description="input pictures")
    def inputs(self, generation: Generation) -> SafeString | str:
        """The pictures and the mask it started from."""
        base = generation.get_absolute_url()
        pictures = [(_thumbnail(f"{base}/{part}", 160),) for part in generation.input_names]
        return format_html_join(" ", "{}", pictures) if pictures else "none"

    @admin.display(description="prompt", ordering="prompt")
    def short_prompt(self, generation: Generation) -> str:
        """The prompt's beginning."""
        return generation.prompt[:80]

    @admin.display(description="step")
    def progress(self, generation: Generation) -> str:
        """Steps done of all."""
        return f"{generation.step}/{generation.total_steps}"

    @admin.action(description="Cancel selected generations", permissions=["delete"])
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[Generation]) -> None:
        """Cancels those that have not ended."""
        canceled = 0
        for generation in queryset:
            try:
                generation_cancel(generation=generation)
            except GenerationEndedError:
                continue
            canceled += 1
        self.message_user(request, f"{canceled} canceled.", messages.SUCCESS)

    def delete_model(self, request: HttpRequest, obj: Generation) -> None:
        """Deletes with the files."""
        generation_delete(generation=obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Generation]) -> None:
        """Deletes with the files."""
        for generation in queryset:
            generation_delete(generation=generation)


@admin.register(GeneratedImage)
class GeneratedImageAdmin(ReadOnlyAdmin):
    """Pictures of all generations."""

    list_display = ("picture", "generation", "index", "seed", "width", "height", "size_bytes", "created_at")
    list_select_related = ("generation",)
    search_fields = ("=generation__id", "=sha256", "generation__prompt")
    list_filter = ("created_at",)
    show_full_result_count = False

    @admin.display(description="picture")
    def picture(self, image: GeneratedImage) -> SafeString:
        """A thumbnail that links to the file."""
        return _picture(image, 96)


@admin.register(Worker)
class WorkerAdmin(ReadOnlyAdmin):
    """GPU workers and when they were last heard."""

    list_display = (
        "name",
        "device",
        "status",
        "resident_models",
        "memory_free_mb",
        "memory_total_mb",
        "heartbeat_at",
    )
    list_filter = ("status",)
    search_fields = ("name", "hostname")


@admin.register(WorkerCommand)
class WorkerCommandAdmin(ReadOnlyAdmin):
    """Orders to GPU workers."""

    list_display = (
        "kind",
        "checkpoint",
        "worker",
        "status",
        "requested_by",
        "created_at",
        "finished_at",
        "detail",
    )
    list_filter = ("kind", "status")
    list_select_related = ("checkpoint", "worker", "requested_by")


@admin.register(WebhookDelivery)
class WebhookDeliveryAdmin(ReadOnlyAdmin):
    """What webhooks were sent, or are still to be, and how each attempt ended."""

    list_display = (
        "event",
        "url",
        "owner",
        "status",
        "attempts",
        "created_at",
        "next_attempt_at",
        "finished_at",
    )
    list_filter = ("status", "event", "created_at")
    list_select_related = ("owner",)
    search_fields = ("url", "owner__username", "=generation__id")
    show_full_result_count = False


@admin.register(WebhookGone)
class WebhookGoneAdmin(ReadOnlyAdmin):
    """Addresses that answered 410. Deleting one lets its owner use it again."""

    list_display = ("url", "owner", "created_at")
    list_select_related = ("owner",)
    search_fields = ("url", "owner__username")
