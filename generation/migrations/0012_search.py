import django.contrib.postgres.indexes
import django.contrib.postgres.search
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # Indexes of a table that is in use are made beside its readers and writers, which no transaction can hold.
    atomic = False

    dependencies = [
        ('generation', '0011_favorites'),
    ]

    operations = [
        AddIndexConcurrently(
            model_name='generation',
            index=models.Index(condition=models.Q(('favorite', True)), fields=['owner', '-id'], name='generation_favorites'),
        ),
        AddIndexConcurrently(
            model_name='generation',
            index=django.contrib.postgres.indexes.GinIndex(django.contrib.postgres.search.SearchVector('prompt', config='simple'), name='generation_prompt_words'),
        ),
    ]
