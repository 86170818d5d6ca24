"""What users set through A1111's `options`."""

from django.conf import settings
from django.db import models

from generation.choices import OutputFormat
from models_registry.models import Checkpoint


class A1111Options(models.Model):
    """What a user has set through A1111's `options`; it holds for that dialect alone."""

    owner = models.OneToOneField(
        settings.AUTH_USER_MODEL, primary_key=True, on_delete=models.CASCADE, related_name="a1111_options"
    )
    checkpoint = models.ForeignKey(
        Checkpoint,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        verbose_name="model",
        help_text="Empty: the service's default.",
    )
    clip_skip = models.PositiveIntegerField(default=0)
    output_format = models.CharField(max_length=8, choices=OutputFormat.choices, default=OutputFormat.PNG)

    kept = models.JSONField(
        default=dict,
        db_default={},
        blank=True,
        help_text="What clients store there and nothing here follows.",
    )

    class Meta:
        verbose_name = verbose_name_plural = "A1111 options"

    def __str__(self) -> str:
        return f"A1111 options of {self.owner_id}"
