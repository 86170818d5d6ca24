"""The migrations say what the models say, and can run beside the processes of the version before."""

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.migrations import Migration
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations import AddField, CreateModel
from django.db.models import NOT_PROVIDED

APPS = ("generation", "loras", "models_registry")
# Of a time before anybody could have an older version running.
FIRST = {
    *(("generation", f"000{number}") for number in (1, 2, 3)),
    ("loras", "0001"),
    *(("models_registry", f"000{number}") for number in (1, 2, 3, 4, 5)),
}


@pytest.mark.django_db
def test_no_migration_is_missing() -> None:
    call_command("makemigrations", check_changes=True, dry_run=True, verbosity=1)


def _made_by(migration: Migration) -> set[str]:
    """The models that older processes know nothing of."""
    return {operation.name_lower for operation in migration.operations if isinstance(operation, CreateModel)}


@pytest.mark.django_db
def test_older_processes_can_write_beside_new_columns() -> None:
    """A new column may be empty or the database fills it: the version before does not know it."""
    blind = [
        f"{app}.{name}: {operation.model_name}.{operation.name}"
        for (app, name), migration in MigrationLoader(connection).disk_migrations.items()
        if app in APPS and (app, name[:4]) not in FIRST
        for operation in migration.operations
        if isinstance(operation, AddField)
        and operation.model_name not in _made_by(migration)
        and not operation.field.null
        and operation.field.db_default is NOT_PROVIDED
    ]
    assert blind == []
