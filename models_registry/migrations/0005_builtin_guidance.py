"""The trained built-in model draws best with less guidance than was assumed; what an operator has set stays."""

from django.db import migrations

ASSUMED, MEASURED = 4.0, 2.0


def lower(apps, schema_editor):
    """Lowers the default where nobody has changed it."""
    rows = apps.get_model("models_registry", "Checkpoint").objects
    rows.filter(id="builtin", default_guidance_scale=ASSUMED).update(default_guidance_scale=MEASURED)


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0004_seed_files")]
    operations = [migrations.RunPython(lower, migrations.RunPython.noop)]
