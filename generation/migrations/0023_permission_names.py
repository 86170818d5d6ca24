from django.db import migrations

# What `migrate` has written into the table of permissions stays as it was written.
PERMISSIONS = (
    ("models_registry", "checkpoint", "model"),
    ("loras", "lora", "LoRA"),
    ("generation", "generationlora", "LoRA of a generation"),
)


def permissions_rename(apps, schema_editor):
    """Names the permissions that are there as new ones are named."""
    for app, model, words in PERMISSIONS:
        for permission in apps.get_model("auth", "Permission").objects.filter(
            content_type__app_label=app, content_type__model=model
        ):
            action = permission.codename.partition("_")[0]
            permission.name = f"Can {action} {words}"
            permission.save()


class Migration(migrations.Migration):
    """For those who updated; a new installation has these names from the start."""

    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        ("generation", "0022_readable_names"),
    ]

    operations = [migrations.RunPython(permissions_rename, migrations.RunPython.noop)]
