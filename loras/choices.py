"""Fixed words of LoRA."""

from typing import Final

from django.db import models


class LoraSource(models.TextChoices):
    """Where a LoRA's file comes from; only one from the Hub can be had again once it is gone."""

    HUB = "hub", "Hub"
    UPLOAD = "upload", "upload"
    BUILTIN = "builtin", "built-in"


class LoraState(models.TextChoices):
    """Where a LoRA's file stands; `checking` means that the task worker is to look at every weight."""

    ABSENT = "absent"
    DOWNLOADING = "downloading"
    CHECKING = "checking"
    PRESENT = "present"
    BROKEN = "broken"


# A task has it in hand, or is going to.
PENDING: Final = (LoraState.DOWNLOADING, LoraState.CHECKING)


class KeyStyle(models.TextChoices):
    """How the tensors in the file are named."""

    PEFT = "peft", "diffusers (PEFT)"
    DIFFUSERS = "diffusers", "diffusers (old)"
    KOHYA = "kohya", "kohya, A1111"
    DOTTED = "dotted", "dotted, with kohya's ends"
    XLABS = "xlabs", "XLabs"
