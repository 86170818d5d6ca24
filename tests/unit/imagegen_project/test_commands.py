"""What the site's commands say."""

from io import StringIO

from django.core.management import call_command


def test_waiting_says_what_is_there(db: None) -> None:
    """A line each, so that a start that hangs shows what it waits for."""
    said = StringIO()
    call_command("wait_for", "database", "redis", "migrations", stdout=said)
    assert said.getvalue() == "database: there.\nredis: there.\nmigrations: there.\n"
