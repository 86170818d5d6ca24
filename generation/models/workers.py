"""GPU workers and the orders to them."""

from datetime import timedelta

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q, Value
from django.db.models.functions import Greatest, Now
from uuid_utils.compat import uuid7

from generation.choices import UNFIT, CommandKind, CommandStatus, ErrorCode, WorkerStatus
from loras.models import Lora
from models_registry.models import Checkpoint

# A worker renews its row every two seconds at least; this much silence means that it is gone.
WORKER_ALIVE = timedelta(seconds=15)


class WorkerQuerySet(models.QuerySet["Worker"]):
    """GPU workers."""

    def live(self) -> "WorkerQuerySet":
        """Those whose heartbeat is fresh."""
        return self.filter(heartbeat_at__gte=Now() - WORKER_ALIVE)

    def silent(self) -> "WorkerQuerySet":
        """Those that are gone."""
        return self.filter(heartbeat_at__lt=Now() - WORKER_ALIVE)

    def with_silence(self) -> "WorkerQuerySet":
        """Each with `silence`, the time since its last sign of life by the database's clock, which notes those."""
        silence = Greatest(Now() - F("heartbeat_at"), Value(timedelta()))
        return self.annotate(silence=silence)  # type: ignore[no-redef]  # the model declares its type


class Worker(models.Model):
    """A GPU worker process, alive while its heartbeat is fresh."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=120, unique=True)
    hostname = models.CharField(max_length=200)
    pid = models.PositiveIntegerField()
    device = models.CharField(max_length=120, blank=True)
    instruction_set = models.CharField(
        max_length=32, blank=True, db_default="", help_text="Of a CPU: the widest that its kernels use."
    )
    device_class = models.CharField(
        max_length=32, blank=True, db_default="", help_text="Its DEVICE_CLASS; generations may ask for one."
    )
    version = models.CharField(max_length=32, blank=True, db_default="", help_text="Of this program.")
    status = models.CharField(max_length=16, choices=WorkerStatus.choices, default=WorkerStatus.STARTING)
    memory_total_mb = models.PositiveIntegerField(default=0)
    memory_free_mb = models.PositiveIntegerField(default=0)
    resident_models = ArrayField(models.CharField(max_length=64), default=list, blank=True)
    cached_models = models.JSONField(
        default=list,
        blank=True,
        help_text="Each model's id, tier (resident, warm, loading), bytes and number format.",
    )
    models_on_disk = ArrayField(
        models.CharField(max_length=64),
        default=list,
        db_default=[],
        blank=True,
        help_text="Models whose files its host has.",
    )
    model_plans = models.JSONField(
        default=dict,
        db_default=Value({}, models.JSONField()),
        blank=True,
        help_text="How each of them fits into its memory: verdict and reason, by model.",
    )
    leaked_mb = models.PositiveIntegerField(
        default=0, help_text="Memory beyond the cached models, compared with the first one loaded, MiB."
    )
    started_at = models.DateTimeField(auto_now_add=True)
    heartbeat_at = models.DateTimeField(db_index=True)
    silence: timedelta  # of `with_silence` alone

    objects = WorkerQuerySet.as_manager()

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    @property
    def is_alive(self) -> bool:
        """Whether its heartbeat was fresh when it was read `with_silence`."""
        return self.silence <= WORKER_ALIVE

    @property
    def unfit(self) -> list[str]:
        """The models on its host that it cannot run: for its memory, or for a library that it lacks."""
        return [model for model, plan in self.model_plans.items() if plan["verdict"] in UNFIT]


class WorkerCommand(models.Model):
    """An order to one GPU worker, carried out between jobs."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    order_id = models.UUIDField(
        default=uuid7,
        db_index=True,
        editable=False,
        help_text="Shared by what one request asked of several workers.",
    )
    worker = models.ForeignKey(Worker, on_delete=models.CASCADE, related_name="commands")
    kind = models.CharField(max_length=16, choices=CommandKind.choices)
    checkpoint = models.ForeignKey(
        Checkpoint, null=True, blank=True, on_delete=models.CASCADE, verbose_name="model"
    )
    lora = models.ForeignKey(Lora, null=True, blank=True, on_delete=models.CASCADE, verbose_name="LoRA")
    status = models.CharField(max_length=16, choices=CommandStatus.choices, default=CommandStatus.PENDING)
    error_code = models.CharField(max_length=32, choices=ErrorCode.choices, blank=True)
    detail = models.TextField(blank=True)
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL
    )
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        indexes = [
            models.Index(
                fields=["worker", "id"], condition=Q(status=CommandStatus.PENDING), name="command_pending"
            )
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(kind=CommandKind.DRAIN)
                | Q(kind__in=(CommandKind.LOAD, CommandKind.UNLOAD), checkpoint__isnull=False)
                | Q(kind__in=(CommandKind.ATTACH, CommandKind.DETACH), lora__isnull=False),
                name="command_names_its_object",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.checkpoint_id or ''} on {self.worker_id}"

    def get_absolute_url(self) -> str:
        """Where the API serves the order that it is a part of."""
        return f"/api/v1/models/orders/{self.order_id}"
