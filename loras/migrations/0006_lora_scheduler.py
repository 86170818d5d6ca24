from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('loras', '0005_other_trainers'),
    ]

    operations = [
        migrations.AddField(
            model_name='lora',
            name='scheduler',
            field=models.CharField(blank=True, db_default='', help_text='What it was distilled for: requests that name none get this one. Empty: none in particular.', max_length=32),
        ),
    ]
