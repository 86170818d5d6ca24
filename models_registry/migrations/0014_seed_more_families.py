"""Rows of more well-known models, disabled until an operator enables them.

Repositories, licences and defaults as their authors state them; revisions are pinned where they are first downloaded.
"""

from django.db import migrations

SQUARE = {"default_width": 1024, "default_height": 1024, "min_size": 256, "max_size": 2048, "size_multiple": 16}
CHECKPOINTS = (
    {
        "id": "flux-2-dev",
        "name": "FLUX.2 [dev]",
        "repository": "black-forest-labs/FLUX.2-dev",
        "family": "flux2",
        "pipeline": "Flux2Pipeline",
        "licence": "flux-2-dev-non-commercial-license",
        "gated": True,
        "default_steps": 50,
        "default_guidance_scale": 4.0,
    },
    {
        "id": "flux-2-klein-4b",
        "name": "FLUX.2 [klein] 4B",
        "repository": "black-forest-labs/FLUX.2-klein-4B",
        "family": "flux2",
        "pipeline": "Flux2KleinPipeline",
        "distilled": True,
        "licence": "apache-2.0",
        "default_steps": 4,
        "default_guidance_scale": 1.0,
    },
    {
        "id": "flux-2-klein-base-4b",
        "name": "FLUX.2 [klein] base 4B",
        "repository": "black-forest-labs/FLUX.2-klein-base-4B",
        "family": "flux2",
        "pipeline": "Flux2KleinPipeline",
        "licence": "apache-2.0",
        "default_steps": 50,
        "default_guidance_scale": 4.0,
    },
    {
        "id": "z-image",
        "name": "Z-Image",
        "repository": "Tongyi-MAI/Z-Image",
        "family": "z-image",
        "pipeline": "ZImagePipeline",
        "licence": "apache-2.0",
        "default_steps": 50,
        "default_guidance_scale": 4.0,
    },
    {
        "id": "sana-1600m",
        "name": "Sana 1600M",
        "repository": "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers",
        "family": "sana",
        "pipeline": "SanaPipeline",
        "variant": "bf16",
        "licence": "nscl-v2-custom",
        "default_steps": 20,
        "default_guidance_scale": 4.5,
        "size_multiple": 32,
    },
)


def seed(apps, schema_editor):
    """Adds the rows that are missing; an operator's own row for the same repository stays the only one."""
    rows = apps.get_model("models_registry", "Checkpoint").objects
    for values in CHECKPOINTS:
        if not rows.filter(repository=values["repository"]).exists():
            rows.get_or_create(id=values["id"], defaults={**SQUARE, "enabled": False, **values})


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0013_readable_names")]
    operations = [migrations.RunPython(seed, migrations.RunPython.noop)]
