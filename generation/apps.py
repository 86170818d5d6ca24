"""The job: durable generations, their pictures, feeds and workers."""

from importlib import import_module

from django.apps import AppConfig


class GenerationConfig(AppConfig):
    """Generations and the workers that run them."""

    name = "generation"
    verbose_name = "Jobs"

    def ready(self) -> None:
        """Listens to what the registry tells about checkpoints."""
        # Importing connects them; it needs the models, which are not ready when this module is imported.
        import_module("generation.receivers")
