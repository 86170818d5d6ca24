"""The suite's database, which a test that commits leaves as the migrations made it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from django.db import connection, transaction


class MigratedDatabase:
    """What the migrations put into each table; most tests change few tables, and only those are touched again."""

    def __init__(self) -> None:
        self._tables = connection.introspection.django_table_names(only_existing=True, include_views=False)
        names = [connection.ops.quote_name(table) for table in self._tables]
        self._lock = f"LOCK TABLE {', '.join(names)} IN SHARE ROW EXCLUSIVE MODE"
        self._contents = " UNION ALL ".join(
            f"SELECT '{table}', md5(string_agg(t::text, '' ORDER BY t::text)) FROM {name} t"
            for table, name in zip(self._tables, names, strict=True)
        )
        with connection.cursor() as cursor:
            cursor.execute(self._contents)
            self._digests: dict[str, str | None] = dict(cursor.fetchall())
            self._rows: dict[str, str] = {}
            for table, name in zip(self._tables, names, strict=True):
                if self._digests[table] is not None:
                    cursor.execute(f"SELECT json_agg(t)::text FROM {name} t")
                    self._rows[table] = cursor.fetchone()[0]

    def restore(self) -> None:
        """Puts each table that has changed back as it was; waits for whoever is still writing."""
        # Foreign keys are looked at when the transaction ends: the order of the tables does not count.
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(self._lock)
            cursor.execute(self._contents)
            for table, digest in cursor.fetchall():
                if digest == self._digests[table]:
                    continue
                name = connection.ops.quote_name(table)
                cursor.execute(f"DELETE FROM {name}")
                if table in self._rows:
                    cursor.execute(
                        f"INSERT INTO {name} SELECT * FROM json_populate_recordset(NULL::{name}, %s)",
                        [self._rows[table]],
                    )


@contextmanager
def rows_for_now(table: str) -> Iterator[None]:
    """A transaction that adds many rows to a table and is rolled back, so that nothing looks up what they refer to.

    Rolled back they still fill the table's pages, and each later test would read over them: they are vacuumed away.
    """
    with transaction.atomic():
        yield
        transaction.set_rollback(True)
    # In a connection of its own, as VACUUM runs in no transaction, and a test is one.
    with closing(connection.copy()) as other, other.cursor() as cursor:
        cursor.execute(f"VACUUM (TRUNCATE FALSE) {other.ops.quote_name(table)}")
