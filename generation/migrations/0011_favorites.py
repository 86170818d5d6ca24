from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('generation', '0010_phase'),
    ]

    operations = [
        migrations.AddField(
            model_name='generation',
            name='favorite',
            field=models.BooleanField(db_default=False, default=False, help_text="Its owner's mark."),
        ),
    ]
