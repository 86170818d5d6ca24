"""The job in the admin: generations and pictures, workers and orders, webhooks, models with their verbs, people."""

from generation.admin import generations, models, people, webhooks, workers

__all__ = ["generations", "models", "people", "webhooks", "workers"]
