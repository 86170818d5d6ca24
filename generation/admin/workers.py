"""GPU workers and the orders to them in the admin."""

from django.contrib import admin
from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from generation.choices import Status
from generation.models import Generation, Worker, WorkerCommand
from generation.orders import worker_drain
from imagegen_project.common.errors import DomainError
from imagegen_project.common.http import user_of
from imagegen_project.common.staff import ReadOnlyAdmin, age, bar, clipped, duration


@admin.register(Worker)
class WorkerAdmin(ReadOnlyAdmin):
    """GPU workers: what they do and hold, and when they were last heard."""

    live = True
    verbs = ("drain",)
    actions = verbs
    list_display = ("name", "state", "heard", "hardware", "memory", "models", "job")
    list_filter = ("status", "device_class")
    search_fields = ("name", "hostname")
    fieldsets = (
        (None, {"fields": ("name", "state", "heard", "job", "memory", "models")}),
        (
            "Host",
            {
                "fields": (
                    "hostname",
                    "pid",
                    "device",
                    "device_class",
                    "instruction_set",
                    "started_at",
                    "heartbeat_at",
                )
            },
        ),
        ("Models", {"fields": ("cached_models", "models_on_disk", "leaked_mb")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Worker]:
        """With the jobs that run, and how long each has been silent."""
        running = Generation.objects.filter(status=Status.RUNNING).only(
            "id", "worker_id", "step", "total_steps"
        )
        return Worker.objects.with_silence().prefetch_related(
            Prefetch("generations", queryset=running, to_attr="running")
        )

    @admin.display(description="state", ordering="status")
    def state(self, worker: Worker) -> SafeString:
        """What it does, or that it is silent."""
        word = worker.status if worker.is_alive else "silent"
        return format_html('<span class="state {}">{}</span>', word, word)

    @admin.display(description="heard", ordering="heartbeat_at")
    def heard(self, worker: Worker) -> str:
        """The age of its last sign of life."""
        return f"{duration(worker.silence)} ago"

    @admin.display(description="device", ordering="device")
    def hardware(self, worker: Worker) -> SafeString | str:
        """What it draws with."""
        return clipped(worker.device, 28)

    @admin.display(description="memory", ordering="memory_free_mb")
    def memory(self, worker: Worker) -> SafeString:
        """How much of its device's is used."""
        used = worker.memory_total_mb - worker.memory_free_mb
        words = f"{used / 1024:.1f} of {worker.memory_total_mb / 1024:.1f} GiB"
        return bar(used, worker.memory_total_mb, words)

    @admin.display(description="models")
    def models(self, worker: Worker) -> str:
        """Which are resident."""
        return ", ".join(worker.resident_models) or "none"

    @admin.display(description="job")
    def job(self, worker: Worker) -> SafeString | str:
        """What it draws now."""
        rows = [
            (
                reverse("admin:generation_generation_change", args=[one.pk]),
                f"…{str(one.pk)[-8:]} ({one.step}/{one.total_steps})",
            )
            for one in worker.running  # type: ignore[attr-defined]  # prefetched above
        ]
        return format_html_join(", ", '<a href="{}">{}</a>', rows) if rows else "none"

    @admin.action(description="Drain (finish what runs, then end)", permissions=["delete"])
    def drain(self, request: HttpRequest, queryset: QuerySet[Worker]) -> None:
        """Orders them to finish and end."""
        told = []
        for worker in queryset:
            try:
                worker_drain(worker=worker, requested_by=user_of(request))
            except DomainError as error:
                self.complain(request, worker, error.detail)
            else:
                told.append(worker)
        self.tell(request, told, "Told to drain")


@admin.register(WorkerCommand)
class WorkerCommandAdmin(ReadOnlyAdmin):
    """Orders to GPU workers."""

    live = True
    list_display = ("kind", "about", "worker", "status", "said", "requested_by", "made")
    list_filter = ("kind", "status")
    list_select_related = ("checkpoint", "lora", "worker", "requested_by")

    @admin.display(description="of")
    def about(self, command: WorkerCommand) -> str:
        """The model or LoRA."""
        return str(command.checkpoint or command.lora or "the worker")

    @admin.display(description="detail")
    def said(self, command: WorkerCommand) -> SafeString | str:
        """Why it failed."""
        return clipped(command.detail, 48)

    @admin.display(description="given", ordering="created_at")
    def made(self, command: WorkerCommand) -> str:
        """How long ago."""
        return age(command.created_at)
