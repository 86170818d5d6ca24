"""Django's command line, with this project's settings: what `manage.py` and `imagegen`'s service commands run."""

import argparse
import os
import sys
from collections.abc import Sequence

SETTINGS = "imagegen_project.settings"


def django_setup() -> None:
    """Makes models and settings usable in this process."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", SETTINGS)
    import django

    django.setup()


def manage(arguments: Sequence[str]) -> None:
    """Runs one management command; `arguments` begin with the program's name."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", SETTINGS)
    if list(arguments[1:2]) == ["standalone"]:
        _prepare_standalone(arguments[2:])
        from imagegen_project.management.commands.standalone import Command

        # It sets Django up itself, while its workers load.
        Command().run_from_argv(list(arguments))
        return
    from django.core.management import execute_from_command_line

    execute_from_command_line(list(arguments))


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
        sys.exit(f"standalone: {error}")
