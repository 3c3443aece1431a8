"""`python -m fti.cli`, as `make` calls it."""

import sys

from fti.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
