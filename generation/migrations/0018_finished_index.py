from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('generation', '0017_model_plans'),
    ]

    operations = [
        migrations.AddIndex(
            model_name='generation',
            index=models.Index(fields=['finished_at'], name='generation_finished'),
        ),
    ]
