"""Django's command line, with this project's settings: what `manage.py` and `imagegen`'s service commands run."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django.core.management.base import BaseCommand

SETTINGS = "imagegen_project.settings"


def django_setup() -> None:
    """Makes models and settings usable in this process."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", SETTINGS)
    import django

    django.setup()


def manage(arguments: Sequence[str]) -> None:
    """Runs one management command; `arguments` begin with the program's name."""
    if list(arguments[1:2]) == ["standalone"]:
        command_load("standalone", arguments[2:]).run_from_argv(list(arguments))
        return
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", SETTINGS)
    from django.core.management import execute_from_command_line

    execute_from_command_line(list(arguments))


def command_load(name: str, arguments: Sequence[str]) -> "BaseCommand":
    """A management command, ready to run with these arguments: Django is set up for it."""
    if name == "standalone":
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", SETTINGS)
        _prepare_standalone(arguments)
        from imagegen_project.management.commands.standalone import Command

        # It sets Django up itself, while its workers load.
        return Command()
    django_setup()
    from django.core.management import ManagementUtility

    return ManagementUtility().fetch_command(name)


def _prepare_standalone(arguments: Sequence[str]) -> None:
    """Chooses the data folder of `standalone` and makes its secrets, since the settings are computed from both."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--data-dir")
    options, others = parser.parse_known_args(arguments)
    if options.data_dir:
        os.environ["DATA_DIR"] = options.data_dir
    if {"-h", "--help", "--stop"} & set(others):
        return
    from imagegen_project import env
    from imagegen_project.standalone import paths
    from imagegen_project.standalone.folders import EmbeddedError, make_data_folder

    try:
        make_data_folder(env.DATA_DIR)
        paths.ensure_secrets(env.DATA_DIR)
    except (EmbeddedError, OSError) as error:
        sys.exit(f"imagegen: {error}")
