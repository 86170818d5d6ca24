from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("generation", "0018_finished_index"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddIndex(
            model_name="generation",
            index=models.Index(
                condition=models.Q(("input_bytes__gt", 0)),
                fields=["owner", "id"],
                name="generation_inputs_bytes",
            ),
        ),
    ]
