"""Generations, their pictures, and the LoRA they use."""

from collections.abc import Iterable
from typing import Final

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVector
from django.core.files.storage import default_storage
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Cast
from uuid_utils.compat import uuid7

from generation.choices import (
    ACTIVE,
    TERMINAL,
    Acceleration,
    ErrorCode,
    Kind,
    OutputFormat,
    Phase,
    PromptSyntax,
    ReplayVerdict,
    SafetyResult,
    Status,
    WebhookEvent,
)
from generation.models.queue import Standing
from generation.models.request import DEFAULT_OUTPUT_QUALITY, REQUEST_FIELDS, GenerationRequest
from generation.models.webhooks import MAX_WEBHOOK_URL_CHARACTERS
from generation.models.workers import Worker
from imagegen_project.common.context import MAX_BASE_URL_CHARACTERS
from imagegen_project.common.signed_addresses import address_sign
from loras.models import MAX_NAME_CHARACTERS, Lora
from models_registry.choices import DiskState
from models_registry.models import Checkpoint

MAX_SEED = 2**32 - 1
MAX_PRIORITY = 10
MAX_EDIT_IMAGES = 16
MAX_MASK_PADDING = 2048


# Prompts are of any language: words as they are, neither stems nor stop words.
PROMPT_WORDS: Final = SearchVector("prompt", config="simple")
# `Generation.pixel_steps` in a query; more than an integer column holds.
PIXEL_STEPS: Final = (
    Cast("width", models.BigIntegerField()) * F("height") * F("num_images") * F("total_steps")
)


class Generation(models.Model):
    """One durable request for 1..n pictures.

    queued --claim--> running --> succeeded | failed
    running --lease expired, handed back--> queued (the next claim is the next attempt)
    queued, running --> canceled

    Only transitions.py changes a status, by one conditional UPDATE; the constraints below repeat the rules. Every write
    of a worker carries the attempt it was made for, so a stale worker's write changes nothing.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="generations")
    request_id = models.CharField(max_length=64, blank=True)
    traceparent = models.CharField(
        max_length=64, blank=True, db_default="", help_text="The request's place in a trace (W3C)."
    )
    base_url = models.CharField(
        max_length=MAX_BASE_URL_CHARACTERS,
        blank=True,
        db_default="",
        help_text="Where its client reached the service, for the addresses in its webhooks.",
    )
    kind = models.CharField(max_length=16, choices=Kind.choices, default=Kind.TXT2IMG)
    status = models.CharField(max_length=16, choices=Status.choices, default=Status.QUEUED)

    # What was asked for, with every default resolved
    checkpoint = models.ForeignKey(
        Checkpoint, on_delete=models.PROTECT, related_name="generations", verbose_name="model"
    )
    prompt = models.TextField()
    negative_prompt = models.TextField(blank=True)
    width = models.PositiveIntegerField()
    height = models.PositiveIntegerField()
    num_inference_steps = models.PositiveIntegerField()
    guidance_scale = models.FloatField()
    true_cfg_scale = models.FloatField(
        null=True,
        blank=True,
        help_text="How strongly the negative prompt counts where guidance_scale is an input of the model.",
    )
    guidance_rescale = models.FloatField(
        default=0.0, db_default=0.0, help_text="How far guidance's gain in contrast is taken back, 0 to 1."
    )
    prompt_syntax = models.CharField(
        max_length=16,
        choices=PromptSyntax.choices,
        default=PromptSyntax.PLAIN,
        db_default=PromptSyntax.PLAIN,
        help_text="How prompt and negative prompt are read.",
    )
    acceleration = models.CharField(
        max_length=32,
        choices=Acceleration.choices,
        default=Acceleration.NONE,
        db_default=Acceleration.NONE,
        help_text="What of the denoiser's work is left out.",
    )
    seed = models.BigIntegerField()
    num_images = models.PositiveIntegerField(default=1)
    scheduler = models.CharField(max_length=32, blank=True, help_text="Empty: the model's own.")
    clip_skip = models.PositiveIntegerField(
        null=True, blank=True, help_text="Layers of the text encoder to leave out, from its end."
    )
    strength = models.FloatField(
        null=True, blank=True, help_text="How much of the input picture may change, above 0 to 1."
    )
    padding_mask_crop = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        help_text="Pixels around what is masked that are drawn with it, at the whole size; empty: all of the picture.",
    )
    input_image = models.CharField(
        max_length=200, blank=True, help_text="Input picture in Django's storage: PNG, RGB, width x height."
    )
    mask_image = models.CharField(
        max_length=200, blank=True, help_text="Mask in Django's storage: PNG, grey, white is drawn anew."
    )
    input_images = ArrayField(
        models.CharField(max_length=200),
        default=list,
        db_default=[],
        blank=True,
        help_text="Pictures to edit, in Django's storage: PNG, RGB.",
    )
    output_format = models.CharField(max_length=8, choices=OutputFormat.choices, default=OutputFormat.PNG)
    output_quality = models.PositiveSmallIntegerField(
        default=DEFAULT_OUTPUT_QUALITY,
        db_default=DEFAULT_OUTPUT_QUALITY,
        help_text="Of JPEG and WebP, 0 to 100.",
    )
    preview_every = models.PositiveIntegerField(
        default=0, db_default=0, help_text="Steps between two previews in the feed; 0: none."
    )
    strict = models.BooleanField(default=False, help_text="Refuse what would have to be adjusted.")
    device_class = models.CharField(
        max_length=32, blank=True, db_default="", help_text="Which workers may run it; empty: all of them."
    )
    timeout_s = models.PositiveIntegerField()
    priority = models.SmallIntegerField(default=0, db_default=0, help_text="Higher ones run first.")
    webhook_url = models.CharField(max_length=MAX_WEBHOOK_URL_CHARACTERS, blank=True, db_default="")
    webhook_events = ArrayField(
        models.CharField(max_length=16, choices=WebhookEvent.choices),
        default=list,
        db_default=[],
        blank=True,
    )
    cancel_on_disconnect = models.BooleanField(
        default=False, db_default=False, help_text="Cancel it when the client that waits for it hangs up."
    )
    input_bytes = models.PositiveIntegerField(default=0, db_default=0, help_text="Of its input pictures.")
    reproducible = models.BooleanField(default=False)
    favorite = models.BooleanField(default=False, db_default=False, help_text="Its owner's mark.")
    warnings = models.JSONField(default=list, blank=True)
    retry_of = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.SET_NULL, related_name="retries"
    )
    replay_of = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.SET_NULL, related_name="replays"
    )

    # How it goes
    turn = models.BigIntegerField(
        default=0,
        db_default=0,
        help_text="Its place in its priority: owners take turns.",
    )
    batch_key = models.CharField(
        max_length=64,
        blank=True,
        db_default="",
        help_text="Equal for generations that can be drawn together; empty: alone.",
    )
    attempt = models.PositiveIntegerField(default=0)
    attempt_log = models.JSONField(
        default=list,
        db_default=[],
        blank=True,
        help_text="What became of attempts that did not end it: attempt, worker, reason, at.",
    )
    worker = models.ForeignKey(
        Worker, null=True, blank=True, on_delete=models.SET_NULL, related_name="generations"
    )
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    worker_phase = models.CharField(
        max_length=16,
        choices=Phase.choices,
        blank=True,
        default="",
        db_default="",
        help_text="What its worker was at last; see the property `phase`.",
    )
    step = models.PositiveIntegerField(default=0)
    total_steps = models.PositiveIntegerField()

    # How it ended
    error_code = models.CharField(max_length=32, choices=ErrorCode.choices, blank=True)
    error_detail = models.TextField(blank=True)
    receipt = models.JSONField(null=True, blank=True)
    replay_verdict = models.CharField(
        max_length=16,
        choices=ReplayVerdict.choices,
        blank=True,
        db_default="",
        help_text="How a replay's pictures compare with its original's.",
    )
    replay_difference = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text="The largest difference between the two, of 255 levels of a colour."
    )
    pixels_match = models.BooleanField(
        null=True,
        blank=True,
        help_text="True where the verdict is exact, false where it is different, null otherwise.",
    )
    safety_filter_result = models.CharField(
        max_length=16, choices=SafetyResult.choices, default=SafetyResult.NOT_CHECKED
    )
    queue_ms = models.PositiveIntegerField(null=True, blank=True)
    latency_ms = models.PositiveIntegerField(null=True, blank=True)
    busy_ms = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Its share of latency_ms, of which others that were drawn with it had theirs.",
    )
    vram_peak_mb = models.PositiveIntegerField(null=True, blank=True)

    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    standing: Standing | None = None  # when it was stored; of no row that is read

    class Meta:
        ordering = ("-id",)
        indexes = [
            models.Index(fields=["owner", "-id"], name="generation_owner_newest"),
            models.Index(
                fields=["-priority", "turn", "id"],
                condition=Q(status=Status.QUEUED),
                name="generation_queue",
            ),
            models.Index(
                fields=["owner", "priority", "turn"],
                condition=Q(status__in=ACTIVE),
                name="generation_owner_turns",
            ),
            models.Index(
                fields=["checkpoint", "-finished_at"],
                condition=Q(status=Status.SUCCEEDED),
                name="generation_speeds",
            ),
            models.Index(
                fields=["lease_expires_at"], condition=Q(status=Status.RUNNING), name="generation_leases"
            ),
            models.Index(fields=["owner", "-id"], condition=Q(favorite=True), name="generation_favorites"),
            models.Index(
                fields=["owner", "id"], condition=Q(input_bytes__gt=0), name="generation_inputs_bytes"
            ),
            models.Index(fields=["finished_at"], name="generation_finished"),
            GinIndex(PROMPT_WORDS, name="generation_prompt_words"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=ACTIVE, finished_at__isnull=True)
                | Q(status__in=TERMINAL, finished_at__isnull=False),
                name="generation_terminal_iff_finished",
            ),
            models.CheckConstraint(
                condition=Q(status=Status.RUNNING, lease_expires_at__isnull=False, attempt__gte=1)
                | (~Q(status=Status.RUNNING) & Q(lease_expires_at__isnull=True)),
                name="generation_lease_iff_running",
            ),
            models.CheckConstraint(
                condition=(Q(status=Status.FAILED) & ~Q(error_code=""))
                | (~Q(status=Status.FAILED) & Q(error_code="")),
                name="generation_error_iff_failed",
            ),
            models.CheckConstraint(
                condition=Q(status=Status.SUCCEEDED, receipt__isnull=False) | ~Q(status=Status.SUCCEEDED),
                name="generation_receipt_if_succeeded",
            ),
            models.CheckConstraint(
                condition=Q(seed__gte=0, seed__lte=MAX_SEED), name="generation_seed_range"
            ),
            models.CheckConstraint(
                condition=Q(num_inference_steps__gte=1, num_inference_steps__lte=100),
                name="generation_steps_range",
            ),
            models.CheckConstraint(
                condition=Q(guidance_scale__gte=0.0, guidance_scale__lte=20.0)
                & (Q(true_cfg_scale__isnull=True) | Q(true_cfg_scale__gte=1.0, true_cfg_scale__lte=20.0))
                & Q(guidance_rescale__gte=0.0, guidance_rescale__lte=1.0),
                name="generation_guidance_range",
            ),
            models.CheckConstraint(
                condition=Q(padding_mask_crop__isnull=True)
                | Q(kind=Kind.INPAINT, padding_mask_crop__lte=MAX_MASK_PADDING),
                name="generation_padding_of_a_mask",
            ),
            models.CheckConstraint(
                condition=Q(num_images__gte=1, num_images__lte=10), name="generation_num_images_range"
            ),
            models.CheckConstraint(
                condition=Q(priority__gte=-MAX_PRIORITY, priority__lte=MAX_PRIORITY),
                name="generation_priority_range",
            ),
            models.CheckConstraint(
                condition=Q(step__lte=F("total_steps")), name="generation_step_within_total"
            ),
            models.CheckConstraint(
                condition=Q(
                    kind=Kind.TXT2IMG, input_image="", mask_image="", input_images=[], strength__isnull=True
                )
                | (
                    Q(kind=Kind.IMG2IMG, mask_image="", input_images=[], strength__gt=0, strength__lte=1)
                    & ~Q(input_image="")
                )
                | (
                    Q(kind=Kind.INPAINT, input_images=[], strength__gt=0, strength__lte=1)
                    & ~Q(input_image="")
                    & ~Q(mask_image="")
                )
                | (
                    Q(kind=Kind.EDIT, input_image="", mask_image="", strength__isnull=True)
                    & Q(input_images__len__gte=1, input_images__len__lte=MAX_EDIT_IMAGES)
                ),
                name="generation_inputs_by_kind",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.id} ({self.status})"

    def get_absolute_url(self) -> str:
        """Where the API serves it."""
        return f"/api/v1/generations/{self.id}"

    @property
    def request(self) -> GenerationRequest:
        """What was asked for."""
        return GenerationRequest(**{name: getattr(self, name) for name in REQUEST_FIELDS})

    @property
    def pictures(self) -> Iterable["GeneratedImage"]:
        """Its pictures; a list reads those of all of its rows at once."""
        listed: Iterable[GeneratedImage] | None = vars(self).get("listed_images")
        return self.images.all() if listed is None else listed

    @property
    def lora_uses(self) -> Iterable["GenerationLora"]:
        """Its LoRA, read as its pictures are."""
        listed: Iterable[GenerationLora] | None = vars(self).get("listed_adapters")
        return self.adapters.all() if listed is None else listed

    @property
    def pixel_steps(self) -> int:
        """The work it asks for: pixels of all its pictures x steps."""
        return self.width * self.height * self.num_images * self.total_steps

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended."""
        return self.status in TERMINAL

    @property
    def phase(self) -> Phase | None:
        """What is done for it now; None once it has ended."""
        match self.status:
            case Status.QUEUED:
                downloads = self.checkpoint.state == DiskState.DOWNLOADING
                return Phase.DOWNLOADING if downloads else Phase.QUEUED
            case Status.RUNNING:
                return Phase(self.worker_phase or Phase.LOADING)
        return None

    @property
    def input_names(self) -> dict[str, str]:
        """The files of the pictures that it was given, by where the API serves them: input, mask, inputs/0."""
        names = {"input": self.input_image, "mask": self.mask_image}
        names |= {f"inputs/{index}": name for index, name in enumerate(self.input_images)}
        return {part: name for part, name in names.items() if name}

    @property
    def error(self) -> dict[str, str] | None:
        """Why it failed, as clients see it; None unless it did."""
        return {"code": self.error_code, "detail": self.error_detail} if self.error_code else None


class GeneratedImage(models.Model):
    """One finished picture, stored in Django's storage."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    generation = models.ForeignKey(Generation, on_delete=models.CASCADE, related_name="images")
    index = models.PositiveIntegerField(help_text="Its place in the generation, from 0.")
    file = models.FileField(max_length=200)
    content_type = models.CharField(max_length=32, default="image/png")
    size_bytes = models.PositiveIntegerField()
    sha256 = models.CharField(max_length=64, help_text="Of the file.")
    pixel_sha256 = models.CharField(max_length=64, help_text="Of the decoded RGB pixels, row by row.")
    width = models.PositiveIntegerField()
    height = models.PositiveIntegerField()
    seed = models.BigIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("generation_id", "index")
        constraints = [
            models.UniqueConstraint(fields=["generation", "index"], name="generated_image_one_per_index"),
            models.CheckConstraint(
                condition=Q(seed__gte=0, seed__lte=MAX_SEED), name="generated_image_seed_range"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.generation_id}#{self.index}"

    def get_absolute_url(self) -> str:
        """Where the API serves the file."""
        return f"/api/v1/generations/{self.generation_id}/images/{self.index}"

    def signed_url(self, *, base: str = "") -> str:
        """Where the file opens without a token for IMAGE_URL_TTL_S, while the picture is there; below `base`."""
        return address_sign(self.get_absolute_url(), base=base)

    def storage_url(self) -> str:
        """An address of the file at the shared storage, good for MEDIA_S3_URL_TTL_S; "" where pictures are local."""
        return str(default_storage.url(str(self.file.name))) if settings.MEDIA_IS_SHARED else ""


class GenerationLora(models.Model):
    """One adapter of a generation. `name` and `sha256` stay when the adapter itself is gone."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    generation = models.ForeignKey(Generation, on_delete=models.CASCADE, related_name="adapters")
    position = models.PositiveIntegerField(help_text="Its place in the request, from 0.")
    lora = models.ForeignKey(
        Lora, null=True, on_delete=models.SET_NULL, related_name="uses", verbose_name="LoRA"
    )
    name = models.CharField(max_length=MAX_NAME_CHARACTERS)
    sha256 = models.CharField(max_length=64, blank=True, help_text="Of the file, once it has been used.")
    scale = models.FloatField()

    class Meta:
        verbose_name = "LoRA of a generation"
        verbose_name_plural = "LoRA of generations"
        ordering = ("generation_id", "position")
        constraints = [
            models.UniqueConstraint(
                fields=["generation", "position"], name="generation_lora_one_per_position"
            ),
            models.CheckConstraint(
                condition=Q(scale__gte=0.0, scale__lte=2.0), name="generation_lora_scale_range"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} at {self.scale:g}"
