"""The registry of adapters."""

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q
from uuid_utils.compat import uuid7

from loras.choices import KeyStyle, LoraSource, LoraState
from models_registry.choices import DownloadProblem, Family

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]*$"
SHA256_PATTERN = r"^[0-9a-f]{64}$"
MAX_NAME_CHARACTERS = 64
MAX_WEIGHT_NAME_CHARACTERS = 255
MAX_TRIGGER_WORDS = 20
MAX_TRIGGER_CHARACTERS = 100


class Lora(models.Model):
    """One LoRA adapter: where it comes from, what it is, and where its file stands.

    upload: checking -> present | broken
    hub: downloading -> present | broken | absent (what kept it away passes); present -> absent (pruned);
    absent, broken -> downloading

    Only `lora_move` in services.py changes a state, by one conditional UPDATE. Files are named by their SHA-256, so
    rows with equal files share one.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(
        max_length=MAX_NAME_CHARACTERS,
        validators=[
            RegexValidator(NAME_PATTERN, "Lower-case letters, digits, dots, dashes and underscores.")
        ],
        help_text="What requests call it; one of a name for each owner.",
    )
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.CASCADE, related_name="loras"
    )
    shared = models.BooleanField(default=False, help_text="Everybody may use it, not its owner alone.")
    enabled = models.BooleanField(default=True, help_text="Requests may name it.")

    source = models.CharField(max_length=16, choices=LoraSource.choices)
    repository = models.CharField(max_length=200, blank=True, help_text="On the Hub, such as org/name.")
    weight_name = models.CharField(
        max_length=MAX_WEIGHT_NAME_CHARACTERS,
        blank=True,
        help_text="The file; empty until the repository's only one is known.",
    )
    wanted_weight_name = models.CharField(
        max_length=MAX_WEIGHT_NAME_CHARACTERS, blank=True, help_text="As it was asked for."
    )
    wanted_revision = models.CharField(
        max_length=100, blank=True, help_text="As it was asked for; empty: the repository's main branch."
    )
    revision = models.CharField(
        max_length=64, blank=True, help_text="Commit that is used; empty until it has been downloaded."
    )

    # What the file says
    family = models.CharField(max_length=16, choices=Family.choices, blank=True)
    key_style = models.CharField(max_length=16, choices=KeyStyle.choices, blank=True)
    rank = models.PositiveIntegerField(null=True, blank=True, help_text="The largest of all modules.")
    alpha = models.FloatField(null=True, blank=True, help_text="The most frequent one.")
    targets = ArrayField(models.CharField(max_length=64), default=list, blank=True)
    text_encoders = ArrayField(models.PositiveIntegerField(), default=list, blank=True)
    trigger_words = ArrayField(
        models.CharField(max_length=MAX_TRIGGER_CHARACTERS),
        default=list,
        blank=True,
        size=MAX_TRIGGER_WORDS,
        help_text="What a prompt must say to bring it out, separated by commas.",
    )
    scheduler = models.CharField(
        max_length=32,
        blank=True,
        db_default="",
        help_text="What it was distilled for: requests that name none get this one. Empty: none in particular.",
    )
    sha256 = models.CharField(max_length=64, blank=True, db_index=True)
    size_bytes = models.PositiveBigIntegerField(default=0)

    # How its file stands
    state = models.CharField(max_length=16, choices=LoraState.choices)
    error_code = models.CharField(max_length=32, choices=DownloadProblem.choices, blank=True)
    error_detail = models.TextField(blank=True)
    requested_at = models.DateTimeField(
        null=True, blank=True, help_text="When a task was last asked to see to it."
    )
    taken_at = models.DateTimeField(
        null=True, blank=True, help_text="When a task last took it in hand: owners take turns by it."
    )
    last_used_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("-id",)
        verbose_name = verbose_name_plural = "LoRA"
        constraints = [
            models.UniqueConstraint(
                fields=["owner", "name"],
                name="lora_name_per_owner",
                violation_error_message="This owner has another LoRA of this name.",
            ),
            models.UniqueConstraint(
                fields=["name"],
                condition=Q(shared=True),
                name="lora_shared_name",
                violation_error_message="Another shared LoRA has this name.",
            ),
            models.CheckConstraint(condition=Q(name__regex=NAME_PATTERN), name="lora_name_pattern"),
            models.CheckConstraint(
                condition=Q(sha256="") | Q(sha256__regex=SHA256_PATTERN), name="lora_sha256_pattern"
            ),
            models.CheckConstraint(
                condition=~Q(state=LoraState.PRESENT)
                | (~Q(sha256="") & ~Q(family="") & Q(rank__isnull=False, alpha__isnull=False)),
                name="lora_present_is_known",
            ),
            models.CheckConstraint(
                condition=Q(state=LoraState.ABSENT)
                | (Q(state=LoraState.BROKEN) & ~Q(error_code=""))
                | (~Q(state=LoraState.BROKEN) & Q(error_code="")),
                name="lora_error_says_why",
            ),
            models.CheckConstraint(
                condition=Q(source=LoraSource.HUB) & ~Q(repository="")
                | ~Q(source=LoraSource.HUB) & Q(repository=""),
                name="lora_repository_iff_hub",
            ),
            models.CheckConstraint(
                condition=Q(source=LoraSource.BUILTIN, shared=True, owner__isnull=True)
                | (~Q(source=LoraSource.BUILTIN) & Q(owner__isnull=False)),
                name="lora_owner_unless_builtin",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class LoraTrial(models.Model):
    """One file that a GPU worker is putting on a model, or that it did not survive. Deleting a death forgives it."""

    sha256 = models.CharField(max_length=64, db_index=True)
    worker = models.CharField(max_length=120)
    started_at = models.DateTimeField(auto_now_add=True)
    died_at = models.DateTimeField(null=True, blank=True, help_text="When the worker was found dead.")

    class Meta:
        ordering = ("-id",)
        verbose_name = "LoRA's trial"

    def __str__(self) -> str:
        return f"{self.sha256[:12]} on {self.worker}"
