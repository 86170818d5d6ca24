"""The built-in model runs in the number format that is fastest on its device, as all others do."""

from django.db import migrations


def follow_device(apps, schema_editor):
    """Lets the row say `auto`, where it still says what it was seeded with."""
    checkpoint_model = apps.get_model("models_registry", "Checkpoint")
    checkpoint_model.objects.filter(id="builtin", dtype="float32").update(dtype="auto")


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0009_builtin_steps")]
    operations = [migrations.RunPython(follow_device, migrations.RunPython.noop)]
