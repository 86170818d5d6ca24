from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("generation", "0019_padding_mask_crop"),
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
