"""The built-in model draws in eight steps as well as in twenty; an operator's own setting stays."""

from django.db import migrations

BEFORE, AFTER = 20, 8


def lower(apps, schema_editor):
    """Lowers the built-in model's steps where they are as they were seeded."""
    checkpoint_model = apps.get_model("models_registry", "Checkpoint")
    checkpoint_model.objects.filter(id="builtin", default_steps=BEFORE).update(default_steps=AFTER)


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0008_pipelines")]
    operations = [migrations.RunPython(lower, migrations.RunPython.noop)]
