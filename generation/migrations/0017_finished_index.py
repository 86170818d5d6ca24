from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('generation', '0016_versions_and_traces'),
    ]

    operations = [
        migrations.AddIndex(
            model_name='generation',
            index=models.Index(fields=['finished_at'], name='generation_finished'),
        ),
    ]
