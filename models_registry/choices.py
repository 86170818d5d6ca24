"""Fixed words of the registry."""

from django.db import models

BUILTIN_ID = "builtin"


class Family(models.TextChoices):
    """The architecture a checkpoint belongs to; it decides which adapters fit and which limits hold."""

    BUILTIN = "builtin", "built-in"
    SD1 = "sd1", "Stable Diffusion 1.x"
    SD2 = "sd2", "Stable Diffusion 2.x"
    SDXL = "sdxl", "Stable Diffusion XL"


class Dtype(models.TextChoices):
    """The number format of the weights while they run; `auto` is half precision on a GPU, single on a CPU."""

    AUTO = "auto"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"
