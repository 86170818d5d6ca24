"""`python -m imagegen_project`: the same as `imagegen`."""

import sys

from imagegen_project.cli.main import main

if __name__ == "__main__":
    # By its name PostgreSQL and logs tell a command from the web process.
    sys.argv[0] = "imagegen"
    sys.exit(main())
