"""The job: durable generations, their pictures, feeds and workers."""

from django.apps import AppConfig


class GenerationConfig(AppConfig):
    """Generations and the workers that run them."""

    name = "generation"
    verbose_name = "Generation"
