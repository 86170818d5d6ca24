"""The registry of checkpoints."""

from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Q

from models_registry.choices import BUILTIN_ID, Dtype, Family

ID_PATTERN = r"^[a-z0-9][a-z0-9._-]*$"


class Checkpoint(models.Model):
    """One model that generations can name, with what it allows and what it does when nothing is asked for.

    Any repository that diffusers' AutoPipeline can load becomes usable by one row.
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
        max_length=64, blank=True, help_text="Commit that is used; empty until one has been downloaded."
    )
    family = models.CharField(max_length=16, choices=Family.choices)
    dtype = models.CharField(max_length=16, choices=Dtype.choices, default=Dtype.AUTO)
    licence = models.CharField(max_length=64, help_text="SPDX-like name of the weights' licence.")
    enabled = models.BooleanField(default=True)
    is_default = models.BooleanField(default=False, help_text="Used when a request names no model.")

    default_width = models.PositiveIntegerField(default=512)
    default_height = models.PositiveIntegerField(default=512)
    default_steps = models.PositiveIntegerField(
        default=30, validators=[MinValueValidator(1), MaxValueValidator(100)]
    )
    default_guidance_scale = models.FloatField(
        default=7.5, validators=[MinValueValidator(1.0), MaxValueValidator(20.0)]
    )
    min_size = models.PositiveIntegerField(default=512, help_text="Smallest width and height, pixels.")
    max_size = models.PositiveIntegerField(default=1024, help_text="Largest width and height, pixels.")
    size_multiple = models.PositiveIntegerField(
        default=8, help_text="Width and height are multiples of this."
    )

    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("id",)
        constraints = [
            models.UniqueConstraint(
                fields=["is_default"], condition=Q(is_default=True), name="checkpoint_one_default"
            ),
            models.CheckConstraint(
                condition=Q(min_size__gte=8) & Q(min_size__lte=F("max_size")) & Q(size_multiple__gte=1),
                name="checkpoint_sizes",
            ),
            models.CheckConstraint(
                condition=Q(default_width__gte=F("min_size"))
                & Q(default_width__lte=F("max_size"))
                & Q(default_height__gte=F("min_size"))
                & Q(default_height__lte=F("max_size")),
                name="checkpoint_default_size",
            ),
            models.CheckConstraint(
                condition=Q(default_steps__gte=1)
                & Q(default_steps__lte=100)
                & Q(default_guidance_scale__gte=1.0)
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
