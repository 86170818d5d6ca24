#!/usr/bin/env python
"""Django's command line, with this project's settings."""

import argparse
import os
import sys
from collections.abc import Sequence


def prepare_standalone(arguments: Sequence[str]) -> None:
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


def main() -> None:
    """Runs one management command."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "imagegen_project.settings")
    if sys.argv[1:2] == ["standalone"]:
        prepare_standalone(sys.argv[2:])
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
