"""What the seeded checkpoints' rows now say about their files. Only where an operator has not changed it."""

from django.db import migrations

# Their repositories hold half-precision files beside the full ones: half the download, the same pictures.
HALF_PRECISION = ("sd-1-5", "sd-2-1", "sd-xl-base")


def seed(apps, schema_editor):
    """The built-in model needs no download; the others prefer the files in half precision."""
    checkpoints = apps.get_model("models_registry", "Checkpoint").objects
    checkpoints.filter(id="builtin").update(state="present")
    checkpoints.filter(id__in=HALF_PRECISION, variant="").update(variant="fp16")


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0003_downloads")]
    operations = [migrations.RunPython(seed, migrations.RunPython.noop)]
