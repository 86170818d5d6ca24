"""`python -m imagegen_project`: the same as `imagegen`."""

import sys

from imagegen_project.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
