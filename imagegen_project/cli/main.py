"""The entry point of `imagegen`. What a command needs is imported when it runs: help and completion are quick."""

import contextlib
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module

from imagegen_project import __version__
from imagegen_project.cli.exits import CliError, Exit
from imagegen_project.cli.output import say, say_json
from imagegen_project.cli.parser import SERVICE_COMMANDS, parser_make

_COMMANDS = {
    "generate": "drawing:generate",
    "tail": "drawing:tail",
    "models": "models:models",
    "load": "models:order",
    "unload": "models:order",
    "status": "host:status",
    "workers": "host:workers",
    "tokens list": "host:tokens_list",
    "tokens create": "host:tokens_create",
    "tokens revoke": "host:tokens_revoke",
    "doctor": "doctor.command:doctor",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; answers its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = parser_make()
    if "_ARGCOMPLETE" in os.environ:
        from argcomplete.finders import CompletionFinder

        CompletionFinder()(parser)
    # Options of Django's commands are theirs: argparse would take some of them for its own.
    if given[:1] == ["manage"]:
        return _manage(given[1:])
    if given and given[0] in SERVICE_COMMANDS:
        return _service_command(given[0], given[1:])
    options = parser.parse_args(given)
    if options.version:
        say(__version__)
        return Exit.DONE
    if options.command is None:
        parser.print_help()
        return Exit.USAGE
    if options.command == "completion":
        return _completion(options.shell)
    return run(options)


def run(options: Namespace) -> int:
    """Runs a command of our own, and says what kept it from what was asked."""
    name = " ".join(filter(None, (options.command, getattr(options, "verb", ""))))
    module, _, function = _COMMANDS[name].partition(":")
    command: Callable[[Namespace], Exit] = getattr(import_module(f"imagegen_project.cli.{module}"), function)
    try:
        with _quiet():
            return command(options)
    except CliError as error:
        if options.json:
            say_json({"error": {"code": error.code, "detail": str(error)}})
        else:
            say(f"imagegen: {error}", to=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # such as `imagegen tail | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.DONE


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps log lines, which are for machines, out of what people read."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _manage(given: list[str]) -> int:
    from imagegen_project.cli.manage import manage

    # What the process is called in logs and by PostgreSQL is read from here.
    sys.argv = ["imagegen", *given]
    manage(sys.argv)
    return Exit.DONE


def _service_command(typed: str, rest: list[str]) -> int:
    """Runs one of Django's commands by the name that it has here, and says what kept it from its end as ours do."""
    from imagegen_project.cli.manage import command_load

    name = SERVICE_COMMANDS[typed][0]
    sys.argv = ["imagegen", name, *rest]
    command = command_load(name, rest)
    from django.core.management.base import CommandError, SystemCheckError

    try:
        # Else Django says it in its own words, and ends the process.
        command.run_from_argv(["imagegen", typed, "--traceback", *rest])
    except CommandError as error:
        if "--traceback" in rest:
            raise
        # Failed checks of Django have a form of their own.
        say(str(error) if isinstance(error, SystemCheckError) else f"imagegen: {error}", to=sys.stderr)
        return error.returncode
    return Exit.DONE


def _completion(shell: str) -> int:
    from argcomplete.shell_integration import shellcode

    say(shellcode(["imagegen"], shell=shell))
    return Exit.DONE
