"""`imagegen status`, `workers` and `tokens`: what the database of this host's service says, as its operator sees it."""

from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import wraps
from io import StringIO
from typing import TYPE_CHECKING
from uuid import UUID

from imagegen_project import env
from imagegen_project.cli.exits import CliError, Exit
from imagegen_project.cli.manage import django_setup
from imagegen_project.cli.output import age, say, say_json, say_table
from imagegen_project.standalone.folders import lock_holder

if TYPE_CHECKING:
    from generation.queue.overview import WorkerState


def with_database(command: Callable[[Namespace], Exit]) -> Callable[[Namespace], Exit]:
    """Sets Django up first, and says in one line where settings or database keep it from that."""

    @wraps(command)
    def run(options: Namespace) -> Exit:
        try:
            django_setup()
        except Exception as error:
            raise CliError(
                f"The settings cannot be read ({error}): `imagegen doctor` explains it.", code="settings"
            ) from error
        import psycopg
        from django.db import DatabaseError, connection
        from psycopg_pool import PoolTimeout

        try:
            # Where it refuses, that is said at once: the pool would try again for ten seconds.
            psycopg.connect(**connection.get_connection_params()).close()
            return command(options)
        except (DatabaseError, PoolTimeout, psycopg.Error) as error:
            raise CliError(
                _why_unreachable(error), code="unreachable", exit_status=Exit.UNREACHABLE
            ) from error

    return run


def _why_unreachable(error: Exception) -> str:
    with suppress(OSError):  # a folder of another user's
        if not env.DATABASE_URL and lock_holder(env.DATA_DIR) is None:
            return f"No service runs on the data folder {env.DATA_DIR}: `imagegen demo` starts one."
    reason = str(error).strip().splitlines()[0]
    return f"The database cannot be asked ({reason}): `imagegen doctor` explains it."


@with_database
def status(options: Namespace) -> Exit:
    """Prints queue, running jobs, failures of the last hour, and workers."""
    from generation.queue.overview import service_overview

    seen = service_overview()
    if options.json:
        say_json(asdict(seen))
        return Exit.DONE
    waited = f", the oldest for {age(seen.oldest_queued_s)}" if seen.queued else ""
    say(f"queue    {seen.queued} waiting{waited}")
    say(f"running  {seen.running}")
    failed = ", ".join(f"{number} {code}" for code, number in sorted(seen.failed_last_hour.items()))
    say(f"hour     {seen.succeeded_last_hour} succeeded, failed: {failed or 'none'}")
    say()
    _workers_table(seen.workers)
    return Exit.DONE


@with_database
def workers(options: Namespace) -> Exit:
    """Prints every GPU worker that has a row."""
    from generation.queue.overview import worker_states

    states = worker_states()
    if options.json:
        say_json([asdict(state) for state in states])
    else:
        _workers_table(states)
    return Exit.DONE


def _workers_table(states: "list[WorkerState]") -> None:
    if not states:
        say("No GPU worker has ever started here: `imagegen gpu-worker` starts one.")
        return
    say_table(
        ("WORKER", "STATE", "HEARTBEAT", "DEVICE", "MEMORY FREE", "MODELS", "JOBS"),
        [
            (
                state.name,
                state.status if state.alive else "silent",
                f"{age(state.heartbeat_age_s)} ago",
                f"{state.device}{f' ({state.device_class})' if state.device_class else ''}",
                f"{state.memory_free_mb} of {state.memory_total_mb} MiB",
                ", ".join(state.models) or "-",
                ", ".join(state.jobs) or "-",
            )
            for state in states
        ],
    )


@with_database
def tokens_list(options: Namespace) -> Exit:
    """Prints local tokens: whose, since and until when, and when they were used last; never what they say."""
    from imagegen_project.auth.services import tokens_all

    rows = [
        {
            "id": str(token.pk),
            "user": token.token.user.get_username(),
            "name": token.name,
            "created_at": token.token.created,
            "expires_at": token.token.expiry,
            "last_used_at": token.last_used_at,
        }
        for token in tokens_all(username=options.user)
    ]
    if options.json:
        say_json(rows)
        return Exit.DONE
    say_table(
        ("ID", "USER", "NAME", "EXPIRES", "LAST USED"),
        [
            (
                row["id"],
                row["user"],
                row["name"] or "-",
                f"{row['expires_at']:%Y-%m-%d}" if row["expires_at"] else "never",
                f"{row['last_used_at']:%Y-%m-%d %H:%M}" if row["last_used_at"] else "never",
            )
            for row in rows
        ],
    )
    return Exit.DONE


@with_database
def tokens_create(options: Namespace) -> Exit:
    """Makes a token, and the user where there is none of that name; prints it, the only time it is readable."""
    from django.core.management import CommandError, call_command

    said = StringIO()
    try:
        call_command("create_token", options.username, days=options.days, staff=options.staff, stdout=said)
    except CommandError as error:
        raise CliError(str(error), code="usage", exit_status=Exit.USAGE) from error
    token = said.getvalue().strip()
    if options.json:
        say_json({"user": options.username, "token": token})
    else:
        say(token)
    return Exit.DONE


@with_database
def tokens_revoke(options: Namespace) -> Exit:
    """Ends a token, whoever has it, and the sessions that it began. Raises CliError."""
    from imagegen_project.auth.services import token_end

    try:
        owner = token_end(token_id=UUID(options.id))
    except ValueError:
        owner = ""
    if not owner:
        raise CliError(
            f"There is no token {options.id}: `imagegen tokens list` shows their ids.",
            code="token_not_found",
            exit_status=Exit.USAGE,
        )
    if options.json:
        say_json({"id": options.id, "user": owner, "revoked": True})
    else:
        say(f"Revoked a token of {owner}.")
    return Exit.DONE
