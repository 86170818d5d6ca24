"""Generations and pictures in the admin."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timezone import localtime

from generation.choices import ACTIVE, Status
from generation.models import GeneratedImage, Generation
from generation.services import DELETED_AT_ONCE, generation_cancel, generation_delete, generation_retry
from imagegen_project.common.errors import DomainError
from imagegen_project.common.staff import ReadOnlyAdmin, age, bar, clipped, duration

# Widths for which thumbnails are kept.
SMALL, MIDDLE = 128, 256


def thumbnail(image: GeneratedImage, pixels: int) -> SafeString:
    """A small picture that links to the file."""
    url = image.get_absolute_url()
    width = SMALL if pixels <= SMALL else MIDDLE
    return format_html(
        '<a href="{}"><img src="{}?width={}" height="{}" loading="lazy" alt="picture {}"></a>',
        *(url, url, width, pixels, image.index),
    )


@admin.register(Generation)
class GenerationAdmin(ReadOnlyAdmin):
    """Generations: watch, search, cancel, retry, delete."""

    live = True
    verbs = ("cancel_selected", "retry_selected")
    actions = verbs
    list_display = (
        "short_id",
        "thumbnail",
        "outcome",
        "progress",
        "short_prompt",
        "owner",
        "checkpoint",
        "made",
    )
    list_filter = ("status", "kind", "error_code", "checkpoint", "scheduler", "created_at")
    list_select_related = ("owner", "checkpoint")
    search_fields = ("=id", "prompt", "owner__username")
    date_hierarchy = "created_at"
    show_full_result_count = False
    fieldsets = (
        ("What became of it", {"fields": ("outcome", "error", "pictures", "timeline")}),
        (
            "What was asked for",
            {
                "fields": (
                    *("prompt", "negative_prompt", "checkpoint", "kind", "size", "num_images", "seed"),
                    *("num_inference_steps", "guidance_scale", "scheduler", "strength"),
                    *("padding_mask_crop", "loras", "inputs"),
                    "warnings",
                )
            },
        ),
        (
            "Whose, and where",
            {"fields": ("owner", "worker", "device_class", "priority", "attempt", "attempts", "limit")},
        ),
        ("Webhook", {"classes": ("collapse",), "fields": ("webhook_url", "webhook_events")}),
        (
            "Everything else",
            {
                "classes": ("collapse",),
                "fields": (
                    *("id", "request_id", "true_cfg_scale", "guidance_rescale", "clip_skip", "acceleration"),
                    *("output_format", "output_quality", "preview_every", "strict", "reproducible"),
                    "cancel_on_disconnect",
                    *("favorite", "retry_of", "replay_of", "replay_verdict", "replay_difference"),
                    *(
                        "safety_filter_result",
                        "vram_peak_mb",
                        "turn",
                        "batch_key",
                        "lease_expires_at",
                        "receipt",
                    ),
                ),
            },
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Generation]:
        """With the pictures, so that a page costs the same however many rows it has."""
        rows: QuerySet[Generation] = super().get_queryset(request).prefetch_related("images")
        return rows

    @admin.display(description="id", ordering="id")
    def short_id(self, generation: Generation) -> str:
        """The random end of the key: its beginning is the time."""
        return f"…{str(generation.id)[-8:]}"

    @admin.display(description="picture")
    def thumbnail(self, generation: Generation) -> SafeString | str:
        """The first picture."""
        image = next(iter(generation.images.all()), None)
        return thumbnail(image, 48) if image else "none"

    @admin.display(description="status", ordering="status")
    def outcome(self, generation: Generation) -> SafeString:
        """The status, and why it failed."""
        why = generation.error_code or (generation.phase if generation.status == Status.RUNNING else "")
        return format_html(
            '<span class="state {}">{}</span> <small>{}</small>',
            generation.status,
            generation.status,
            why or "",
        )

    @admin.display(description="step")
    def progress(self, generation: Generation) -> SafeString | str:
        """Steps done of all."""
        words = f"{generation.step}/{generation.total_steps}"
        return (
            bar(generation.step, generation.total_steps, words)
            if generation.status == Status.RUNNING
            else words
        )

    @admin.display(description="prompt", ordering="prompt")
    def short_prompt(self, generation: Generation) -> SafeString | str:
        """The prompt's beginning."""
        return clipped(generation.prompt, 48)

    @admin.display(description="made", ordering="created_at")
    def made(self, generation: Generation) -> SafeString:
        """How long ago."""
        moment = localtime(generation.created_at)
        return format_html('<span title="{}">{}</span>', f"{moment:%Y-%m-%d %H:%M:%S %Z}", age(moment))

    @admin.display(description="error")
    def error(self, generation: Generation) -> SafeString | str:
        """Why it failed."""
        if not generation.error_code:
            return "none"
        return format_html("<strong>{}</strong> {}", generation.error_code, generation.error_detail)

    @admin.display(description="pictures")
    def pictures(self, generation: Generation) -> SafeString | str:
        """Thumbnails."""
        found = [(thumbnail(image, 160),) for image in generation.images.all()]
        return format_html_join(" ", "{}", found) if found else "none"

    @admin.display(description="timeline")
    def timeline(self, generation: Generation) -> SafeString:
        """When it was made, begun and ended, and what that took."""
        rows: list[tuple[Any, str, str]] = [(generation.created_at, "queued", "")]
        for entry in generation.attempt_log:
            said = f"attempt {entry.get('attempt')} on {entry.get('worker')}: {entry.get('reason')}"
            rows.append((entry.get("at"), said, ""))
        if generation.started_at:
            waited = duration((generation.queue_ms or 0) / 1000)
            rows.append(
                (generation.started_at, f"begun by {generation.worker or 'a worker'}", f"after {waited}")
            )
        if generation.finished_at:
            took = duration(generation.latency_ms / 1000) if generation.latency_ms is not None else ""
            rows.append((generation.finished_at, generation.status, f"drawn in {took}" if took else ""))
        shown = [(_moment(moment), words, took) for moment, words, took in rows]
        return format_html(
            '<ol class="timeline">{}</ol>', format_html_join("", "<li><time>{}</time> {} {}</li>", shown)
        )

    @admin.display(description="size")
    def size(self, generation: Generation) -> str:
        """Of each picture."""
        return f"{generation.width} x {generation.height} pixels"

    @admin.display(description="limit of the run")
    def limit(self, generation: Generation) -> str:
        """In seconds."""
        return f"{generation.timeout_s} s"

    @admin.display(description="LoRA")
    def loras(self, generation: Generation) -> str:
        """Names and scales."""
        return ", ".join(f"{use.name} at {use.scale:g}" for use in generation.adapters.all()) or "none"

    @admin.display(description="attempts that did not end it")
    def attempts(self, generation: Generation) -> str:
        """Who was lost, and why."""
        said = [
            f"{one.get('attempt')}: {one.get('worker')}, {one.get('reason')}"
            for one in generation.attempt_log
        ]
        return "; ".join(said) or "none"

    @admin.display(description="input pictures")
    def inputs(self, generation: Generation) -> SafeString | str:
        """The pictures and the mask it started from."""
        base = generation.get_absolute_url()
        parts = [(f"{base}/{part}", f"{base}/{part}", part) for part in generation.input_names]
        pictures = format_html_join(
            " ", '<a href="{}"><img src="{}" height="160" loading="lazy" alt="{}"></a>', parts
        )
        return pictures if parts else "none"

    @admin.action(description="Cancel", permissions=["delete"])
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[Generation]) -> None:
        """Cancels those that have not ended."""
        canceled = []
        for generation in queryset.filter(status__in=ACTIVE):
            try:
                generation_cancel(generation=generation)
            except DomainError:
                continue  # it has just ended
            canceled.append(generation)
        self.tell(request, canceled, "Canceled")

    @admin.action(description="Retry", permissions=["delete"])
    def retry_selected(self, request: HttpRequest, queryset: QuerySet[Generation]) -> None:
        """Runs what has ended again, as its owner's new generation."""
        made = []
        for generation in queryset:
            try:
                made.append(generation_retry(generation=generation, owner=generation.owner))
            except DomainError as error:
                self.complain(request, generation, error.detail)
        self.tell(request, made, "Made anew")

    def delete_model(self, request: HttpRequest, obj: Generation) -> None:
        """Deletes with the files."""
        generation_delete(generation=obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Generation]) -> None:
        """Deletes with the files, some at a time."""
        while rows := list(queryset[:DELETED_AT_ONCE]):
            for generation in rows:
                generation_delete(generation=generation)


def _moment(value: Any) -> str:
    """A moment to the second; an attempt's is text already."""
    return (
        f"{localtime(value):%Y-%m-%d %H:%M:%S}"
        if hasattr(value, "tzinfo")
        else str(value)[:19].replace("T", " ")
    )


@admin.register(GeneratedImage)
class GeneratedImageAdmin(ReadOnlyAdmin):
    """Pictures of all generations."""

    list_display = ("name", "picture", "generation", "seed", "size", "bytes", "created_at")
    list_display_links = ("name",)
    list_select_related = ("generation",)
    search_fields = ("=generation__id", "=sha256", "generation__prompt")
    list_filter = ("created_at",)
    show_full_result_count = False

    @admin.display(description="picture", ordering="id")
    def name(self, image: GeneratedImage) -> str:
        """Which of its generation's."""
        return f"{image.pk} (no. {image.index})"

    @admin.display(description="")
    def picture(self, image: GeneratedImage) -> SafeString:
        """A thumbnail that links to the file."""
        return thumbnail(image, 64)

    @admin.display(description="size")
    def size(self, image: GeneratedImage) -> str:
        """In pixels."""
        return f"{image.width} x {image.height}"

    @admin.display(description="file", ordering="size_bytes")
    def bytes(self, image: GeneratedImage) -> str:
        """How large its file is."""
        return f"{image.size_bytes / 1000:,.0f} kB"
