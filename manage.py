#!/usr/bin/env python
"""Django's command line, with this project's settings."""

import sys

from imagegen_project.cli.manage import manage

if __name__ == "__main__":
    manage(sys.argv)
