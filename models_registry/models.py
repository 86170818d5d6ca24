"""The registry of checkpoints."""

import math

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Q

from models_registry.choices import BUILTIN_ID, DiskState, DownloadProblem, Dtype, Family
from models_registry.pipeline_facts import PipelineFacts, pipeline_facts

# Both become parts of a path: no slash, no leading dot.
ID_PATTERN = r"^[a-z0-9][a-z0-9._-]*$"
COMMIT_PATTERN = r"^[0-9a-f]{40}$"


class Checkpoint(models.Model):
    """One model that generations can name, with what it allows and what it does when nothing is asked for.

    Any repository of a pipeline class that `pipeline_facts` lists becomes usable by one row. Its files:
    absent -> downloading -> present | broken | absent; a broken one may be asked for again, and a present one may turn
    out to be broken. `error_code` says why it is broken, or what kept an absent one from coming. A download is pending
    while `download_requested_at` is set and nobody has it in hand.
    """

    id = models.CharField(
        primary_key=True,
        max_length=64,
        validators=[RegexValidator(ID_PATTERN, "Lower-case letters, digits, dots, dashes and underscores.")],
        help_text="The name that requests use, such as sd-xl-base.",
    )
    name = models.CharField(max_length=120)
    repository = models.CharField(
        max_length=200, unique=True, help_text="Repository on the Hub, such as org/name."
    )
    revision = models.CharField(
        max_length=64,
        blank=True,
        validators=[RegexValidator(COMMIT_PATTERN, "A commit: 40 hexadecimal digits.")],
        help_text="Commit that is used; empty until one has been downloaded.",
    )
    variant = models.CharField(
        max_length=16,
        blank=True,
        validators=[RegexValidator(r"^[a-z0-9_]+$", "Lower-case letters, digits and underscores.")],
        help_text="Weights files to prefer where the repository has several, such as fp16.",
    )
    family = models.CharField(max_length=16, choices=Family.choices)
    pipeline = models.CharField(
        max_length=64,
        blank=True,
        db_default="",
        default="",
        help_text="diffusers' class, as its index names it; empty until that has been read.",
    )
    distilled = models.BooleanField(
        default=False, db_default=False, help_text="It was distilled to draw without guidance."
    )
    dtype = models.CharField(max_length=16, choices=Dtype.choices, default=Dtype.AUTO)
    licence = models.CharField(max_length=64, help_text="SPDX-like name of the weights' licence.")
    gated = models.BooleanField(
        default=False, help_text="Its licence must be accepted on the Hub, by the account of HF_TOKEN."
    )
    enabled = models.BooleanField(default=True)
    aliases = ArrayField(
        models.CharField(max_length=64),
        default=list,
        db_default=[],
        blank=True,
        help_text="Names that OpenAI's clients may use for it, separated by commas; * stands for anything.",
    )
    is_default = models.BooleanField(default=False, help_text="Used when a request names no model.")

    default_width = models.PositiveIntegerField(default=512)
    default_height = models.PositiveIntegerField(default=512)
    default_steps = models.PositiveIntegerField(
        default=30, validators=[MinValueValidator(1), MaxValueValidator(100)]
    )
    default_guidance_scale = models.FloatField(
        default=7.5, validators=[MinValueValidator(0.0), MaxValueValidator(20.0)]
    )
    min_size = models.PositiveIntegerField(default=512, help_text="Smallest width and height, pixels.")
    max_size = models.PositiveIntegerField(default=1024, help_text="Largest width and height, pixels.")
    size_multiple = models.PositiveIntegerField(
        default=8, help_text="Width and height are multiples of this."
    )

    state = models.CharField(max_length=16, choices=DiskState.choices, default=DiskState.ABSENT)
    files = models.JSONField(
        default=dict, blank=True, help_text="What is on disk: path to size in bytes and SHA-256."
    )
    size_bytes = models.PositiveBigIntegerField(default=0, help_text="Of all its files; 0 until known.")
    downloaded_bytes = models.PositiveBigIntegerField(default=0)
    error_code = models.CharField(max_length=32, choices=DownloadProblem.choices, blank=True)
    error_detail = models.TextField(blank=True)
    download_requested_at = models.DateTimeField(null=True, blank=True)
    download_attempt = models.PositiveIntegerField(default=0, help_text="Every write of a download names it.")
    download_alive_at = models.DateTimeField(
        null=True, blank=True, help_text="Last sign of life of the process that downloads."
    )

    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        # What people read: `checkpoint` is the code's word.
        verbose_name = "model"
        ordering = ("id",)
        constraints = [
            models.CheckConstraint(condition=Q(id__regex=ID_PATTERN), name="checkpoint_id_pattern"),
            models.CheckConstraint(
                condition=Q(revision="") | Q(revision__regex=COMMIT_PATTERN),
                name="checkpoint_revision_commit",
            ),
            models.CheckConstraint(
                condition=~Q(state=DiskState.PRESENT) | Q(id=BUILTIN_ID) | ~Q(revision=""),
                name="checkpoint_present_is_pinned",
            ),
            models.CheckConstraint(
                condition=Q(state=DiskState.ABSENT)
                | (Q(state=DiskState.BROKEN) & ~Q(error_code=""))
                | (~Q(state=DiskState.BROKEN) & Q(error_code="")),
                name="checkpoint_error_says_why",
            ),
            models.UniqueConstraint(
                fields=["is_default"], condition=Q(is_default=True), name="checkpoint_one_default"
            ),
            models.CheckConstraint(
                condition=Q(min_size__gte=8) & Q(min_size__lte=F("max_size")) & Q(size_multiple__gte=1),
                name="checkpoint_sizes",
                violation_error_message="The smallest size is 8 or more, and not above the largest.",
            ),
            models.CheckConstraint(
                condition=Q(default_width__gte=F("min_size"))
                & Q(default_width__lte=F("max_size"))
                & Q(default_height__gte=F("min_size"))
                & Q(default_height__lte=F("max_size")),
                name="checkpoint_default_size",
                violation_error_message="The default width and height lie between the smallest size and the largest.",
            ),
            models.CheckConstraint(
                condition=Q(default_steps__gte=1)
                & Q(default_steps__lte=100)
                & Q(default_guidance_scale__gte=0.0)
                & Q(default_guidance_scale__lte=20.0),
                name="checkpoint_default_values",
            ),
        ]

    def __str__(self) -> str:
        return self.id

    @property
    def is_builtin(self) -> bool:
        """Whether this is the model that ships with the project."""
        return self.id == BUILTIN_ID

    @property
    def facts(self) -> PipelineFacts:
        """What its pipeline draws, and takes."""
        return pipeline_facts(pipeline=self.pipeline, family=self.family, distilled=self.distilled)

    @property
    def side_multiple(self) -> int:
        """What width and height are multiples of: the row's, and what its pipeline would round to."""
        return math.lcm(self.size_multiple, self.facts.size_multiple)

    @property
    def percent(self) -> float:
        """How much of it is on disk, 0 to 100."""
        if self.state == DiskState.PRESENT:
            return 100.0
        return round(100 * self.downloaded_bytes / self.size_bytes, 1) if self.size_bytes else 0.0
