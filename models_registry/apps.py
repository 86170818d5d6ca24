"""The model registry: which checkpoints exist."""

from django.apps import AppConfig


class ModelsRegistryConfig(AppConfig):
    """Checkpoints, their limits and their files."""

    name = "models_registry"
    verbose_name = "Models"
