"""python -m audiogen: the same as the command `audiogen`."""

import sys

from audiogen.cli import main

if __name__ == "__main__":
    sys.exit(main())
