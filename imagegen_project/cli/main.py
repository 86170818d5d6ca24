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
    if given and (given[0] in SERVICE_COMMANDS or given[0] == "manage"):
        # Their options are theirs: argparse would take some of them for its own.
        return _django(given)
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


def _django(given: list[str]) -> int:
    from imagegen_project.cli.manage import manage

    name = given[1:2] if given[0] == "manage" else [SERVICE_COMMANDS[given[0]][0]]
    rest = given[2:] if given[0] == "manage" else given[1:]
    # What the process is called in logs and by PostgreSQL is read from here.
    sys.argv = ["imagegen", *name, *rest]
    manage(sys.argv)
    return Exit.DONE


def _completion(shell: str) -> int:
    from argcomplete.shell_integration import shellcode

    say(shellcode(["imagegen"], shell=shell))
    return Exit.DONE
