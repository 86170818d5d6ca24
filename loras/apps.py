"""The adapters: which LoRA exist, and their files."""

from typing import Any

from django.apps import AppConfig
from django.apps import apps as global_apps
from django.db.models.signals import post_migrate


class LorasConfig(AppConfig):
    """Adapters, what they fit and where their files lie."""

    name = "loras"
    verbose_name = "LoRA"

    def ready(self) -> None:
        """Registers what ships with the project after every migration."""
        post_migrate.connect(_register_builtin, sender=self)


def _register_builtin(apps: Any = global_apps, **kwargs: Any) -> None:
    from loras.shipped import loras_register_builtin  # noqa: PLC0415 - models are not ready before

    try:
        apps.get_model("loras", "Lora")
    except LookupError:  # migrated back to nothing
        return
    loras_register_builtin()
